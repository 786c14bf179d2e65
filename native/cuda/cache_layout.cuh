// How the CUDA backend arranges the KV cache: [numBlocks, 2 (K then V), numKvHeads, 16 tokens, headDim], plain. One key or value page is
// 16 rows of headDim elements; a token's row is contiguous.
#pragma once

#include <cstdint>

namespace kvasir::cuda {

inline constexpr int kPageTokens = 16;

// Where the key row of (slot, head) starts, in elements (or in words, when headDim is given in words); its value row lies
// valueOffset() further. Block numbers are 64-bit: a cache is larger than 2^31 elements.
__device__ __forceinline__ int64_t keyRow(int64_t slot, int head, int numKvHeads, int headDim) {
  const int64_t block = slot / kPageTokens, token = slot % kPageTokens;
  return ((block * 2 * numKvHeads + head) * kPageTokens + token) * headDim;
}
__device__ __forceinline__ int64_t valueOffset(int numKvHeads, int headDim) { return int64_t{numKvHeads} * kPageTokens * headDim; }

}  // namespace kvasir::cuda
