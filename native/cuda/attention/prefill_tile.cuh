// Tiles of prefill attention and how their operands get to shared memory.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/mma.cuh"
#include "cuda/attention/plan.h"
#include "cuda/cache_layout.cuh"

namespace kvasir::cuda::attention {

inline constexpr int kStageKeys = 64;

// Rows of D 16-bit elements in shared memory, in chunks of 16 bytes. A chunk's place within its row is XORed with bits of the row, so that
// the eight rows of a matrix lie in different banks.
template <int D>
struct Swizzle {
  static constexpr int kChunks = D / 8;
  static constexpr int kMask = (kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1) - 1;
  static constexpr int kShift = kMask == 7 ? 0 : kMask == 3 ? 1 : 2;
  __device__ __forceinline__ static int bits(int row) { return row >> kShift & kMask; }
  __device__ __forceinline__ static uint32_t offset(int row, int chunk) { return row * (D * 2) + ((chunk ^ bits(row)) << 4); }
};

struct PrefillTile {
  int sequence, start, queryLen;  // start: the sequence's first row of q and out
  int first, rows;                // rows of the sequence in this tile
  int kvHead;
};

// Finds the tile of number `number`; false if there is nothing to do. The padding after the last sequence counts as a sequence.
__device__ __forceinline__ bool findTile(const Arguments& a, int number, PrefillTile& tile) {
  __shared__ int found;
  for (int i = threadIdx.x; i <= a.numSeqs; i += blockDim.x) {
    const bool after = i == a.numSeqs || number < prefillTile(int64_t{a.queryStarts[i + 1]} * a.group, i + 1);
    if (after && number >= prefillTile(int64_t{a.queryStarts[i]} * a.group, i)) found = i;
  }
  __syncthreads();
  const int i = tile.sequence = found;
  tile.start = a.queryStarts[i];
  tile.queryLen = (i < a.numSeqs ? a.queryStarts[i + 1] : a.numTokens) - tile.start;
  if (i < a.numSeqs && isDecode(tile.queryLen, a.group)) return false;
  tile.first = static_cast<int>(number - prefillTile(int64_t{tile.start} * a.group, i)) * kTileRows;
  tile.rows = min(kTileRows, tile.queryLen * a.group - tile.first);
  return tile.rows > 0;
}

template <class T, int D>
__device__ __forceinline__ T* prefillOut(const Arguments& a, const PrefillTile& tile, int row) {
  const int token = tile.start + (tile.first + row) / a.group, head = tile.kvHead * a.group + (tile.first + row) % a.group;
  return static_cast<T*>(a.out) + (int64_t{token} * a.numHeads + head) * D;
}

template <class T, int D, int kThreads>
__device__ __forceinline__ void zeroTile(const Arguments& a, const PrefillTile& tile) {
  constexpr int kChunks = D / 8;
  for (int i = threadIdx.x; i < tile.rows * kChunks; i += kThreads)
    reinterpret_cast<uint4*>(prefillOut<T, D>(a, tile, i / kChunks))[i % kChunks] = make_uint4(0, 0, 0, 0);
}

// Starts copying the tile's queries to `shared` [kTileRows]; rows past the tile become zero.
template <class T, int D, int kThreads>
__device__ __forceinline__ void loadQueryTile(const Arguments& a, const PrefillTile& tile, char* memory, uint32_t shared) {
  constexpr int kChunks = D / 8;
  for (int i = threadIdx.x; i < kTileRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = row < tile.rows;
    const int at = tile.first + (valid ? row : 0);
    const T* q = static_cast<const T*>(a.q) + (tile.start + at / a.group) * a.qTokenStride + (tile.kvHead * a.group + at % a.group) * a.qHeadStride + chunk * 8;
    const uint32_t offset = Swizzle<D>::offset(row, chunk);
    if (a.alignedQ) {
      copyAsync(shared + offset, q, valid);
      continue;
    }
    for (int e = 0; e < 8; ++e)
      reinterpret_cast<uint16_t*>(memory + offset)[e] = valid ? reinterpret_cast<const uint16_t*>(q)[e] : uint16_t{0};
  }
}

// The thread's number, in such a way that nothing worked out from it is kept in registers over a loop.
__device__ __forceinline__ int threadAgain() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// A warp's share of copying stages: page `slot` of the four, or half of it.
template <class T, int D, int kWarps>
struct StageLoader {
  static constexpr int kChunks = D / 8, kWarpsPerPage = kWarps / 4, kPerLane = 16 * kChunks / (32 * kWarpsPerPage);
  const T* cache;        // the lane's first chunk in the kv head's page of block 0
  const int32_t* table;  // the sequence's blocks
  int pageStride;        // elements between the pages of a block's keys and values, and half of those between blocks
  int lo, hi;            // keys that some row of the tile attends
  int32_t block;         // of the next stage

  __device__ __forceinline__ static int slotOf(int thread) { return thread / (32 * kWarpsPerPage); }
  __device__ __forceinline__ static int firstChunkOf(int thread) { return thread / 32 % kWarpsPerPage * 32 * kPerLane + thread % 32; }
  __device__ __forceinline__ void fetch(int stage) {
    const int page = stage * 4 + slotOf(threadIdx.x);
    if (page * kPageTokens < hi && (page + 1) * kPageTokens > lo) block = table[page];
  }
  // Copies stage `stage`, whose block is known; keys outside [lo, hi) become zero and are not read.
  __device__ __forceinline__ void copy(int stage, uint32_t keys, uint32_t values) const {
    const T *key = cache + int64_t{block} * 2 * pageStride, *value = key + pageStride;
    const int thread = threadAgain(), slot = slotOf(thread), firstChunk = firstChunkOf(thread), firstKey = stage * kStageKeys + slot * kPageTokens;
    const bool whole = firstKey >= lo && firstKey + kPageTokens <= hi;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int chunk = firstChunk + 32 * i, row = chunk / kChunks, at = firstKey + row;
      const bool valid = whole || (at >= lo && at < hi);
      const uint32_t offset = Swizzle<D>::offset(slot * kPageTokens + row, chunk % kChunks);
      copyAsync(keys + offset, valid ? key + 32 * 8 * i : cache, valid);
      copyAsync(values + offset, valid ? value + 32 * 8 * i : cache, valid);
    }
  }
};

}  // namespace kvasir::cuda::attention
