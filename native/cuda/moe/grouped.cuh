// What the kernels of moeLinear have in common: which pairs a block computes and how results are stored.
#pragma once

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/moe/grouped.h"

namespace kvasir::cuda {

// Entry i of a block's row of the table: a pair, or -1 for none.
__device__ __forceinline__ int pairAt(const GroupedArgs& a, const int32_t* block, int i) {
  const int pair = block[1 + i];
  return static_cast<unsigned>(pair) < static_cast<unsigned>(a.numPairs) ? pair : -1;
}

// The row of x that a pair reads.
template <class T>
__device__ __forceinline__ const T* rowOf(const GroupedArgs& a, int pair) {
  return static_cast<const T*>(a.x) + static_cast<int64_t>(pair / a.choices) * a.xStride;
}

template <class T>
__device__ __forceinline__ void storeOne(const GroupedArgs& a, int64_t at, float value) {
  if (a.outFloat)
    static_cast<float*>(a.out)[at] = value;
  else
    static_cast<T*>(a.out)[at] = convert<T>(value);
}

// Columns `column` (even) and the next of a pair's row, as far as they are inside.
template <class T>
__device__ __forceinline__ void storeTwo(const GroupedArgs& a, int pair, int64_t column, float first, float second) {
  const int64_t at = pair * a.outStride + column;
  if (a.pairStores && column + 1 < a.n) {
    if (a.outFloat)
      *reinterpret_cast<float2*>(static_cast<float*>(a.out) + at) = make_float2(first, second);
    else
      *reinterpret_cast<Pack<T, 2>*>(static_cast<T*>(a.out) + at) = {{convert<T>(first), convert<T>(second)}};
    return;
  }
  if (column < a.n) storeOne<T>(a, at, first);
  if (column + 1 < a.n) storeOne<T>(a, at + 1, second);
}

}  // namespace kvasir::cuda
