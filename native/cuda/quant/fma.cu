// Quantized weights in float32: for float32 activations, and for whatever is too unaligned for the other kernels.
#include "cuda/access.cuh"
#include "cuda/quant/decode.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kTile = 64, kSlice = 16, kThreads = 256, kEach = 4;
constexpr int kPitch = kTile + 4;  // rows of shared memory stay 16-byte aligned

// A block computes a tile out [64, 64], a thread 4 x 4 elements of it, over slices of 16 of k, in the order of k. Weights are scaled when
// they are brought to shared memory. Grid: (tokens / 64, features / 64).
template <class T, QuantKind kKind>
__global__ void __launch_bounds__(kThreads) quantFmaKernel(const QuantArgs q) {
  __shared__ __align__(16) float xs[kSlice][kPitch];
  __shared__ __align__(16) float ws[kSlice][kPitch];
  const GemmArgs& a = q.gemm;
  letNextStart();
  waitForPrevious();
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTile, column0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int depth = threadIdx.x % kSlice, line = threadIdx.x / kSlice;
  const int ty = threadIdx.x / (kTile / kEach), tx = threadIdx.x % (kTile / kEach);
  float sum[kEach][kEach] = {};
  for (int k0 = 0; k0 < static_cast<int>(a.k); k0 += kSlice) {
    const int k = k0 + depth, group = k / q.group;
    const bool inside = k < static_cast<int>(a.k);
#pragma unroll
    for (int i = line; i < kTile; i += kThreads / kSlice) {
      const int64_t row = row0 + i, feature = column0 + i;
      xs[depth][i] = inside && row < a.m ? toFloatDevice(static_cast<const T*>(a.x)[row * a.xStride + k]) : 0.0f;
      float weight = 0;
      if (inside && feature < a.n) {
        const int zero = kKind == QuantKind::Int4 ? quant::zeroAt(q, feature * q.groups + group) : 0;
        const float scale = quant::scaleOf(q, quant::scaleBits(q, quant::scaleRow(q, feature) + group));
        weight = quant::codeAt<kKind>(static_cast<const uint8_t*>(a.weight) + feature * a.weightStride, k, zero) * scale;
      }
      ws[depth][i] = weight;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kSlice; ++d) {
      const float4 xv = *reinterpret_cast<const float4*>(&xs[d][ty * kEach]);
      const float4 wv = *reinterpret_cast<const float4*>(&ws[d][tx * kEach]);
      const float left[kEach] = {xv.x, xv.y, xv.z, xv.w}, right[kEach] = {wv.x, wv.y, wv.z, wv.w};
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t column = column0 + tx * kEach + j;
    if (column >= a.n) continue;
    const float bias = biasAt<T>(a, column);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t row = row0 + ty * kEach + i;
      if (row < a.m) storeAt<T>(a, row, column, sum[i][j] + bias);
    }
  }
}

template <class T>
auto kernelFor(QuantKind kind) {
  if (kind == QuantKind::Int4) return quantFmaKernel<T, QuantKind::Int4>;
  return kind == QuantKind::Int8 ? quantFmaKernel<T, QuantKind::Int8> : quantFmaKernel<T, QuantKind::Fp8>;
}

}  // namespace

void launchQuantFma(QuantKind kind, const QuantArgs& args, DType dtype, Chain chain) {
  const dim3 grid(static_cast<unsigned>(ceilDiv(args.gemm.m, kTile)), static_cast<unsigned>(ceilDiv(args.gemm.n, kTile)));
  dispatchFloat(dtype, [&](auto* null) { launchChained(chain, kernelFor<std::remove_pointer_t<decltype(null)>>(kind), grid, kThreads, args); });
}

}  // namespace kvasir::cuda
