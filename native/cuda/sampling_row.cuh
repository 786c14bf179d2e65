// What the sampler's kernels share: a pass over a row of logits by one block, and block-wide reductions. Sums are integers, so
// that neither the alignment of a row nor the order in which threads arrive can change a result.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace kvasir::cuda::sampling {

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kWarps = kThreads / 32;
using Word = unsigned long long;  // what atomics and shuffles take for 64 bits

// Calls f(x[id], id) for every element, each thread in ascending order of id. 16-byte loads behind the first aligned element, four
// of them in flight per thread. f must not synchronize.
template <class F>
__device__ __forceinline__ void forRow(const float* x, uint32_t n, F&& f) {
  const uint32_t thread = threadIdx.x, misaligned = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(x) / 4 % 4);
  const uint32_t head = min(misaligned ? 4 - misaligned : 0u, n);
  if (thread < head) f(x[thread], thread);
  const float4* body = reinterpret_cast<const float4*>(x + head);
  const uint32_t vectors = (n - head) / 4, tail = head + 4 * vectors;
  for (uint32_t i = thread; i < vectors; i += 4 * kThreads) {
    float4 v[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) v[j] = i + j * kThreads < vectors ? body[i + j * kThreads] : float4{};
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      if (i + j * kThreads >= vectors) break;
      const uint32_t id = head + 4 * (i + j * kThreads);
      f(v[j].x, id);
      f(v[j].y, id + 1);
      f(v[j].z, id + 2);
      f(v[j].w, id + 3);
    }
  }
  if (thread < n - tail) f(x[tail + thread], tail + thread);
}

struct Sum {
  __device__ Word operator()(Word a, Word b) const { return a + b; }
};
struct Least {
  __device__ Word operator()(Word a, Word b) const { return a < b ? a : b; }
};

// For all threads of the block, every one of which must take part.
template <class Op>
__device__ __forceinline__ Word blockReduce(Word value, Op op) {
  __shared__ Word partial[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = partial[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();  // partial may be used again
  return value;
}

__device__ __forceinline__ Word warpInclusiveSum(Word value) {
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Word other = __shfl_up_sync(0xffffffffu, value, offset);
    if (static_cast<int>(threadIdx.x % 32) >= offset) value += other;
  }
  return value;
}

// The sum over the threads before this one; `total` over all.
__device__ __forceinline__ Word blockExclusiveSum(Word value, Word& total) {
  __shared__ Word partial[kWarps];
  const Word inclusive = warpInclusiveSum(value);
  if (threadIdx.x % 32 == 31) partial[threadIdx.x / 32] = inclusive;
  __syncthreads();
  const Word warps = warpInclusiveSum(partial[threadIdx.x % 32]);
  total = __shfl_sync(0xffffffffu, warps, 31);
  const uint32_t warp = threadIdx.x / 32;
  const Word before = __shfl_sync(0xffffffffu, warps, static_cast<int>(warp == 0 ? 0 : warp - 1));
  __syncthreads();  // partial may be used again
  return (warp == 0 ? 0 : before) + inclusive - value;
}

// ---- order: a larger value first, the lower id among equals (-0 equals 0). A smaller rank word stands before a larger one. ----

constexpr Word kNoRank = ~0ull;

__device__ __forceinline__ Word rankWord(float value, uint32_t id) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  const uint32_t descending = bits >> 31 ? bits : ~(bits ^ 0x80000000u);
  return static_cast<Word>(descending) << 32 | id;
}
__device__ __forceinline__ uint32_t rankId(Word rank) { return static_cast<uint32_t>(rank); }
__device__ __forceinline__ float rankValue(Word rank) {
  const uint32_t descending = static_cast<uint32_t>(rank >> 32);
  return __uint_as_float(descending >> 31 ? descending : ~descending ^ 0x80000000u);
}

// The first of what one thread has seen, ids ascending. -infinity and NaN are never taken.
struct Best {
  float value = -INFINITY;
  uint32_t id = UINT32_MAX;

  __device__ __forceinline__ void see(float x, uint32_t i) {
    if (x > value) {
      value = x;
      id = i;
    }
  }
  __device__ __forceinline__ Word rank() const { return id == UINT32_MAX ? kNoRank : rankWord(value, id); }
};

// ---- weights in fixed point ----

// exp(value) as a multiple of 1 / one: exact to sum in any order. value <= 0; one is 2^44 for usual vocabularies.
__device__ __forceinline__ Word fixedExp(float value, float one) { return __float2ull_rn(expf(value) * one); }

// The largest power of two up to 2^44 with which n weights of at most 1 sum up below 2^63.
inline float fixedOne(int64_t n) {
  int bits = 0;
  while (n >> bits) ++bits;
  const int shift = 62 - bits < 44 ? 62 - bits : 44;
  return static_cast<float>(1ull << shift);
}

}  // namespace kvasir::cuda::sampling
