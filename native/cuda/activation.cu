#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

// float32 results need the accurate functions; what is rounded to 16 bits afterwards does not notice the fast ones (relative error below
// 1e-6 where exp neither overflows nor underflows).
template <bool kFast>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (kFast) return __expf(x);
  return expf(x);
}
template <bool kFast>
__device__ __forceinline__ float divide(float a, float b) {
  if constexpr (kFast) return __fdividef(a, b);
  return a / b;
}

struct Silu {
  template <bool kFast>
  static __device__ __forceinline__ float apply(float x) {
    return divide<kFast>(x, 1.0f + exponential<kFast>(-x));
  }
};

// x * Phi(x) with Phi(x) = erfc(-x / sqrt 2) / 2. erfc(z) = t * Q(t) * exp(-z^2) with t = 1 / (1 + z / 2); Q is the least-squares fit of
// the CPU backend (relative error 4e-9), which keeps its accuracy in the tail, where 1 + erf(x) has none left.
struct Gelu {
  template <bool kFast>
  static __device__ __forceinline__ float apply(float x) {
    const float t = divide<kFast>(1.0f, 1.0f + 0.5f * (fabsf(x) * 0.707106781f));
    float q = 0.035706843f;
    q = q * t - 0.19066193f;
    q = q * t + 0.38040515f;
    q = q * t - 0.28797817f;
    q = q * t - 0.0236119f;
    q = q * t + 0.03653856f;
    q = q * t + 0.05435295f;
    q = q * t + 0.18575658f;
    q = q * t + 0.24514769f;
    q = q * t + 0.28225588f;
    q = q * t + 0.28208836f;
    const float tail = 0.5f * t * q * exponential<kFast>(-0.5f * (x * x));
    return x * (x < 0.0f ? tail : 1.0f - tail);
  }
};

// 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
  template <bool kFast>
  static __device__ __forceinline__ float apply(float x) {
    return divide<kFast>(x, 1.0f + exponential<kFast>(x * (-1.59576912f - 0.0713548163f * (x * x))));
  }
};

struct Relu {
  template <bool>
  static __device__ __forceinline__ float apply(float x) {
    return x < 0.0f ? 0.0f : x;  // NaN stays
  }
};

// Block (token, part): one pack of N elements per thread.
//   out [numTokens, size]; x [numTokens, size], or [numTokens, 2 * size] when gated (then the second half multiplies). out may be x.
template <class T, class Function, bool kGated, int N>
__global__ void __launch_bounds__(kThreads) activationKernel(T* out, int64_t outStride, const T* x, int64_t xStride, int size) {
  constexpr bool kFast = sizeof(T) == 2;
  const int pack = blockIdx.y * kThreads + threadIdx.x;
  if (pack >= size / N) return;
  const T* row = x + blockIdx.x * xStride;
  const Pack<T, N> gate = reinterpret_cast<const Pack<T, N>*>(row)[pack];
  Pack<T, N> up, result;
  if constexpr (kGated) up = reinterpret_cast<const Pack<T, N>*>(row + size)[pack];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float y = Function::template apply<kFast>(toFloatDevice(gate.v[j]));
    result.v[j] = convert<T>(kGated ? y * toFloatDevice(up.v[j]) : y);
  }
  reinterpret_cast<Pack<T, N>*>(out + blockIdx.x * outStride)[pack] = result;
}

template <class Function, bool kGated>
void activate(CudaStream& stream, const char* name, const Tensor& out, const Tensor& x) {
  if (out.numel() == 0) return;
  const int64_t bytes = elementSize(out.dtype);
  const bool vector = accessBytes({addressOf(out), addressOf(x), out.dims[1] * bytes, out.strides[0] * bytes, x.strides[0] * bytes}) == 16;
  stream.launch(name, [&](cudaStream_t s) {
    dispatchFloat(out.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? activationKernel<T, Function, kGated, N> : activationKernel<T, Function, kGated, 1>;
      const dim3 grid(static_cast<unsigned>(out.dims[0]), static_cast<unsigned>(ceilDiv(out.dims[1] / (vector ? N : 1), kThreads)));
      kernel<<<grid, kThreads, 0, s>>>(out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0], static_cast<int>(out.dims[1]));
    });
  });
}

}  // namespace

void siluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Silu, true>(stream, "siluAndMul", out, x); }
void geluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Gelu, true>(stream, "geluAndMul", out, x); }
void geluTanhAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<GeluTanh, true>(stream, "geluTanhAndMul", out, x); }
void silu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Silu, false>(stream, "silu", out, x); }
void gelu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Gelu, false>(stream, "gelu", out, x); }
void geluTanh(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<GeluTanh, false>(stream, "geluTanh", out, x); }
void relu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Relu, false>(stream, "relu", out, x); }

}  // namespace kvasir::cuda
