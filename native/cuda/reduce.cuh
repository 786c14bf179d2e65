// Reductions over a warp or a block, always in the same order.
#pragma once

#include <cuda_runtime.h>

namespace kvasir::cuda {

__device__ __forceinline__ float warpSum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ __forceinline__ float warpMax(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over a block of kThreads, for all its threads. Every thread must take part.
template <int kThreads>
__device__ __forceinline__ float blockSum(float x) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  __shared__ float partial[kThreads / 32];
  x = warpSum(x);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  x = warpSum(lane < kThreads / 32 ? partial[lane] : 0.0f);
  __syncthreads();  // partial may be used again
  return x;
}

}  // namespace kvasir::cuda
