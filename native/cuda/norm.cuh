// What RMSNorm does to elements whose root mean square is known.
#pragma once

#include "cuda/access.cuh"
#include "cuda/convert.cuh"

namespace kvasir::cuda {

template <class T, int N>
__device__ __forceinline__ float addSquares(float sum, const Pack<T, N>& x) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum += toFloatDevice(x.v[j]) * toFloatDevice(x.v[j]);
  return sum;
}

// x * scale * weight, scale = 1 / root mean square. The rounding is that of ops/norm.h.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> normalised(const Pack<T, N>& x, const Pack<T, N>& weight, float scale, bool gemma) {
  Pack<T, N> result;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float normed = toFloatDevice(x.v[j]) * scale;
    result.v[j] = gemma ? convert<T>(normed * (1.0f + toFloatDevice(weight.v[j]))) : convert<T>(toFloatDevice(convert<T>(normed)) * toFloatDevice(weight.v[j]));
  }
  return result;
}

}  // namespace kvasir::cuda
