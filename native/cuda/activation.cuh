// Activation functions in float32: shared by the kernels of activation.cu and those that apply one to what they computed.
#pragma once

#include <cuda_runtime.h>

namespace kvasir::cuda {

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

}  // namespace kvasir::cuda
