// Rounding of rows to 8 bits with a scale each, and the scaling of products of rounded rows.
#include <type_traits>

#include "cuda/access.cuh"
#include "cuda/kernels.h"
#include "cuda/quant/decode.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

struct Int8Code {
  static constexpr float kLargest = 127.0f;
  static __device__ __forceinline__ uint8_t round(float x) { return static_cast<uint8_t>(max(-127, min(127, __float2int_rn(x)))); }
};
struct Fp8Code {
  static constexpr float kLargest = 448.0f;
  static __device__ __forceinline__ uint8_t round(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
};

// The largest of all threads' bits, for all of them.
__device__ __forceinline__ uint32_t blockMax(uint32_t x) {
  __shared__ uint32_t partial[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, offset));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) x = max(x, partial[i]);
  return x;
}

// One block per row, which it reads twice, the second time from the caches; a thread has every kThreads-th pack of N elements. Magnitudes
// are compared as bits, which keeps infinities and NaN.
//   codes: [rows, k], scales: [rows], x: rows of k elements at their stride.
template <class T, class Code, int N>
__global__ void __launch_bounds__(kThreads) roundRowsKernel(uint8_t* codes, float* scales, const T* x, int64_t stride, int k, float fixedScale) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const Pack<T, N>* from = reinterpret_cast<const Pack<T, N>*>(x + row * stride);
  Pack<uint8_t, N>* to = reinterpret_cast<Pack<uint8_t, N>*>(codes + row * k);
  const int packs = k / N;
  float scale = fixedScale;
  if (!(fixedScale > 0)) {
    uint32_t largest = 0;
    for (int i = threadIdx.x; i < packs; i += kThreads) {
      const Pack<T, N> p = from[i];
#pragma unroll
      for (int j = 0; j < N; ++j) largest = max(largest, __float_as_uint(toFloatDevice(p.v[j])) & 0x7fffffffu);
    }
    largest = blockMax(largest);
    constexpr float kSmallest = 1.17549435e-38f;  // so that a quotient is never infinite
    scale = largest == 0 ? 1.0f : fmaxf(__uint_as_float(largest) / Code::kLargest, kSmallest);
    if (largest >= 0x7f800000u) scale = __uint_as_float(0x7fc00000u);
  }
  if (threadIdx.x == 0) scales[row] = scale;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    const Pack<T, N> p = from[i];
    Pack<uint8_t, N> rounded;
#pragma unroll
    for (int j = 0; j < N; ++j) rounded.v[j] = Code::round(toFloatDevice(p.v[j]) / scale);
    to[i] = rounded;
  }
}

template <class T, class Code>
void roundRows(const RoundedRows& to, const T* x, int64_t rows, int64_t k, int64_t stride, float fixedScale, Chain chain) {
  constexpr int kWidth = 16 / sizeof(T);
  const auto address = [](const void* p) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)); };
  const int64_t size = sizeof(T);
  const bool wide = accessBytes({address(x), stride * size, k * size}) == 16 && address(to.codes) % kWidth == 0;
  const auto kernel = wide ? roundRowsKernel<T, Code, kWidth> : roundRowsKernel<T, Code, 1>;
  launchChained(chain, kernel, static_cast<unsigned>(rows), kThreads, static_cast<uint8_t*>(to.codes), to.scales, x, stride, static_cast<int>(k), fixedScale);
}

// A thread has 16 bytes of a row of products, in place; blocks are (rows, parts of a row). S: what products are stored as.
template <class T, class S>
__global__ void __launch_bounds__(kThreads) scaleProductsKernel(const QuantArgs q, const float* rowScales) {
  constexpr int kWidth = 16 / sizeof(S);
  using Result = std::conditional_t<std::is_same_v<S, float>, float, T>;
  const GemmArgs& a = q.gemm;
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x, column0 = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  if (column0 >= a.n) return;
  const float rowScale = rowScales[row];
  Pack<S, kWidth>* at = reinterpret_cast<Pack<S, kWidth>*>(static_cast<S*>(a.out) + row * a.outStride + column0);
  const Pack<S, kWidth> products = *at;
  Pack<Result, kWidth> results;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const int64_t column = column0 + j;
    const float scale = rowScale * quant::scaleOf(q, quant::scaleBits(q, quant::scaleRow(q, column)));
    results.v[j] = convert<Result>(fmaf(toFloatDevice(products.v[j]), scale, biasAt<T>(a, column)));
  }
  *reinterpret_cast<Pack<Result, kWidth>*>(at) = results;
}

}  // namespace

void launchRoundRows(const RoundedRows& to, bool fp8, const void* x, DType dtype, int64_t rows, int64_t k, int64_t stride, float fixedScale, Chain chain) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const auto kernel = fp8 ? roundRows<T, Fp8Code> : roundRows<T, Int8Code>;
    kernel(to, static_cast<const T*>(x), rows, k, stride, fixedScale, chain);
  });
}

void launchScaleProducts(const QuantArgs& args, const float* rowScales, DType dtype, Chain chain) {
  const GemmArgs& a = args.gemm;
  const int64_t width = a.outFloat ? 4 : 8;
  const dim3 grid(static_cast<unsigned>(a.m), static_cast<unsigned>(ceilDiv(a.n, width * kThreads)));
  const auto launch = [&]<class T>(T*) {
    launchChained(chain, a.outFloat ? scaleProductsKernel<T, float> : scaleProductsKernel<T, __nv_bfloat16>, grid, kThreads, args, rowScales);
  };
  if (dtype == DType::Float16) launch(static_cast<__half*>(nullptr));
  else launch(static_cast<__nv_bfloat16*>(nullptr));
}

void quantizeFp8(CudaStream& stream, const Tensor& weight, const Tensor& scales, const Tensor& source) {
  if (source.dims[0] == 0) return;
  stream.launch("quantizeFp8", [&](cudaStream_t s) {
    launchRoundRows({weight.data, scales.ptr<float>()}, true, source.data, source.dtype, source.dims[0], source.dims[1], source.strides[0], 0.0f,
                    {s, stream.overlaps()});
  });
}

}  // namespace kvasir::cuda
