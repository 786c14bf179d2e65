// How float8_e4m3 pages get to shared memory: copied there as they are in the background, and widened when they are needed. Every thread
// widens the pieces that it copied itself.
#pragma once

#include "cuda/attention/fp8.cuh"
#include "cuda/attention/prefill_tile.cuh"

namespace kvasir::cuda::attention {

// A thread's share of copying stages of keys and values; see StageLoader. Pieces of 16 bytes are 16 dimensions of a key, of which one or
// two chunks of 16-bit elements become.
template <class T, int D, int kWarps>
struct Fp8StageLoader {
  static constexpr int kPiece = D % 32 == 0 ? 16 : 8;  // bytes: so that every lane has as many
  static constexpr int kPieces = D / kPiece, kWarpsPerPage = kWarps / 4, kPerLane = 16 * kPieces / (32 * kWarpsPerPage);
  static_assert(kPerLane * 32 * kWarpsPerPage == 16 * kPieces);
  const uint8_t* cache;  // the lane's first piece in the kv head's page of block 0
  const int32_t* table;  // the sequence's blocks
  int pageStride;        // elements between the pages of a block's keys and values, and half of those between blocks
  int lo, hi;            // keys that some row of the tile attends
  int32_t block;         // of the next stage

  __device__ __forceinline__ static int slotOf(int thread) { return thread / (32 * kWarpsPerPage); }
  __device__ __forceinline__ static int firstPieceOf(int thread) { return thread / 32 % kWarpsPerPage * 32 * kPerLane + thread % 32; }
  // Where a thread keeps its pieces: `index` of 2 * kPerLane.
  __device__ __forceinline__ static uint32_t rawOffset(int thread, int index) { return (index * kWarps * 32 + thread) * kPiece; }

  __device__ __forceinline__ void fetch(int stage) {
    const int page = stage * 4 + slotOf(threadIdx.x);
    if (page * kPageTokens < hi && (page + 1) * kPageTokens > lo) block = table[page];
  }
  // Starts copying stage `stage`, whose block is known, to `raw`; keys outside [lo, hi) become zero and are not read.
  __device__ __forceinline__ void copy(int stage, uint32_t raw) const {
    const uint8_t *key = cache + int64_t{block} * 2 * pageStride, *value = key + pageStride;
    const int thread = threadAgain(), firstPiece = firstPieceOf(thread), firstKey = stage * kStageKeys + slotOf(thread) * kPageTokens;
    const bool whole = firstKey >= lo && firstKey + kPageTokens <= hi;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int at = firstKey + (firstPiece + 32 * i) / kPieces;
      const bool valid = whole || (at >= lo && at < hi);
      copyPiece<kPiece>(raw + rawOffset(thread, i), valid ? key + 32 * kPiece * i : cache, valid);
      copyPiece<kPiece>(raw + rawOffset(thread, kPerLane + i), valid ? value + 32 * kPiece * i : cache, valid);
    }
  }
  // Widens what this thread copied, which has arrived, to the swizzled rows of `keys` and `values` [kStageKeys].
  __device__ __forceinline__ void widenStage(const char* raw, char* keys, char* values) const {
    const int thread = threadAgain(), firstPiece = firstPieceOf(thread), firstRow = slotOf(thread) * kPageTokens;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int piece = firstPiece + 32 * i, row = firstRow + piece / kPieces, chunk = piece % kPieces * (kPiece / 8);
      widenPiece(raw + rawOffset(thread, i), keys, row, chunk);
      widenPiece(raw + rawOffset(thread, kPerLane + i), values, row, chunk);
    }
  }

 private:
  __device__ __forceinline__ static void widenPiece(const char* from, char* to, int row, int chunk) {
    uint2 codes[kPiece / 8];
    if constexpr (kPiece == 16) *reinterpret_cast<uint4*>(codes) = *reinterpret_cast<const uint4*>(from);
    else codes[0] = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int c = 0; c < kPiece / 8; ++c) {
      uint4 wide;
      widen<T>(codes[c].x, wide.x, wide.y);
      widen<T>(codes[c].y, wide.z, wide.w);
      *reinterpret_cast<uint4*>(to + Swizzle<D>::offset(row, chunk + c)) = wide;
    }
  }
};

}  // namespace kvasir::cuda::attention
