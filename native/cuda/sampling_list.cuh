// The k largest of a row in order, by one block with a list in shared memory: a bound from what each thread has seen, then the words up
// to it, sorted.
#pragma once

#include "cuda/sampling_row.cuh"

namespace kvasir::cuda::sampling {

constexpr uint32_t kListSize = 4096;  // rank words sorted in shared memory

__device__ __forceinline__ float quietNan() { return __int_as_float(0x7fc00000); }

// One step of a bitonic sort: pairs `stride` apart within words[0, count), which lie at `base` of the whole sequence.
__device__ __forceinline__ void bitonicStep(Word* words, uint32_t count, uint32_t base, uint32_t size, uint32_t stride) {
  for (uint32_t t = threadIdx.x; t < count / 2; t += kThreads) {
    const uint32_t i = 2 * t - (t & (stride - 1));
    const Word a = words[i], b = words[i + stride];
    if ((a > b) == (((base + i) & size) == 0)) {
      words[i] = b;
      words[i + stride] = a;
    }
  }
  __syncthreads();
}

// Sorts words[0, count), count a power of two; all threads of the block. Starts and ends with a barrier.
__device__ __forceinline__ void bitonicSort(Word* words, uint32_t count, uint32_t base) {
  __syncthreads();
  for (uint32_t size = 2; size <= count; size *= 2)
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) bitonicStep(words, count, base, size, stride);
}

// NaN stands behind all others.
__device__ __forceinline__ Word rankOf(float value, uint32_t id) { return value == value ? rankWord(value, id) : kNoRank; }

// A rank word with at least k words up to it (or all): the k-th of each thread's first. Rarely many more than k tokens come before it.
__device__ __forceinline__ Word topBound(const Best& best, uint32_t n, uint32_t k, Word* list) {
  if (n <= kListSize) return kNoRank - 1;
  list[threadIdx.x] = best.rank();
  bitonicSort(list, kThreads, 0);
  const Word bound = list[k - 1];
  __syncthreads();  // the list is used again
  return bound == kNoRank ? kNoRank - 1 : bound;
}

// The smallest word with k rank words up to it, by bisection: for rows whose most probable tokens all fall to few threads.
static __device__ __noinline__ Word exactBound(const float* x, uint32_t n, uint32_t k, Word high) {
  Word low = 0;
  while (low < high) {
    const Word middle = low + (high - low) / 2;
    Word count = 0;
    forRow(x, n, [&](float value, uint32_t id) { count += rankOf(value, id) <= middle; });
    if (blockReduce(count, Sum()) >= k) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Collects the words up to `bound`: counts them in `size`, and those that fit are in the list.
__device__ __forceinline__ void collect(float value, uint32_t id, Word bound, Word* list, uint32_t* size) {
  const Word rank = rankOf(value, id);
  if (rank > bound) return;
  const uint32_t place = atomicAdd(size, 1u);
  if (place < kListSize) list[place] = rank;
}

// Sorts the collected words; returns how many there are.
__device__ __forceinline__ uint32_t sortList(const float* x, uint32_t n, uint32_t k, Word bound, Word* list, uint32_t* size) {
  __syncthreads();
  if (*size > kListSize) {
    bound = exactBound(x, n, k, bound);
    if (threadIdx.x == 0) *size = 0;
    __syncthreads();
    forRow(x, n, [&](float value, uint32_t id) { collect(value, id, bound, list, size); });
    __syncthreads();
  }
  const uint32_t count = *size;
  uint32_t padded = 2;
  while (padded < count) padded *= 2;
  for (uint32_t i = count + threadIdx.x; i < padded; i += kThreads) list[i] = kNoRank;
  bitonicSort(list, padded, 0);
  return count;
}

}  // namespace kvasir::cuda::sampling
