// Which sequence and which part of it a decode block works on. Every warp works it out for itself from the lengths of all sequences, so
// that a long one among short ones gets as many blocks as its keys deserve, and the grid depends on nothing but shapes.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/plan.h"
#include "cuda/cache_layout.cuh"

namespace kvasir::cuda::attention {

// Block `split` of `splits` of a sequence. Partial results of its splits begin at slot `first`.
struct DecodeSlot {
  int sequence, split, splits, first;
};

// The keys of sequence i that count for the plan; -1 if it has no rows in this launch, 0 if one block does it all.
__device__ __forceinline__ int plannedKeys(const Arguments& a, const DecodeLaunch& d, int i) {
  const int queryLen = a.queryStarts[i + 1] - a.queryStarts[i], seqLen = a.seqLens[i];
  if (queryLen <= 0 || (!d.all && !isDecode(queryLen, a.group))) return -1;
  if (seqLen <= 0 || queryLen * a.group > d.tiles * d.tileRows) return 0;
  return a.window > 0 ? min(seqLen, queryLen + a.window - 1) : seqLen;
}

__device__ __forceinline__ int plannedSplits(const Arguments& a, const DecodeLaunch& d, int i, int tokens) {
  const int keys = plannedKeys(a, d, i);
  return keys <= 0 ? keys + 1 : splitsOf(keys, tokens, d.minLeafTokens);
}

// Finds slot `number`: those of sequences with several splits come first, because they last longest. False if there are fewer. Lanes count
// a run of sequences each.
// slots: how many there are.
__device__ __forceinline__ bool findSlot(const Arguments& a, const DecodeLaunch& d, int number, int lane, DecodeSlot& slot, int& slots) {
  const int run = (a.numSeqs + 31) / 32, begin = min(lane * run, a.numSeqs), end = min(begin + run, a.numSeqs);
  if (begin < end) asm volatile("prefetch.global.L1 [%0];" ::"l"(a.seqRows + begin));  // needed next
  int tokens = d.blockTokens;
  if (tokens == 0) {
    float keys = 0;  // exact up to 2^24, and the same in every warp beyond
#pragma unroll 4
    for (int i = begin; i < end; ++i) keys += static_cast<float>(max(0, plannedKeys(a, d, i)));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) keys += __shfl_xor_sync(0xffffffffu, keys, step);
    tokens = blockTokens(keys * static_cast<float>(a.numKvHeads * d.tiles), d.few, d.many);
  }
  uint32_t counts = 0;  // of splits: of sequences with several in the upper half, with one in the lower
#pragma unroll 4
  for (int i = begin; i < end; ++i) {
    const int splits = plannedSplits(a, d, i, tokens);
    counts += splits > 1 ? splits << 16 : splits;
  }
  uint32_t upTo = counts;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t before = __shfl_up_sync(0xffffffffu, upTo, step);
    if (lane >= step) upTo += before;
  }
  const uint32_t sums = __shfl_sync(0xffffffffu, upTo, 31);
  const int several = static_cast<int>(sums >> 16);
  slots = several + static_cast<int>(sums & 0xffff);
  const bool among = number < several;
  const int shift = among ? 16 : 0, to = static_cast<int>(upTo >> shift & 0xffff), from = to - static_cast<int>(counts >> shift & 0xffff);
  int left = (among ? number : number - several) - from;
  const uint32_t owner = __ballot_sync(0xffffffffu, left >= 0 && left < to - from);
  if (owner == 0) return false;
  int i = begin, splits = 0;
  if (left >= 0 && left < to - from)
    for (;; ++i) {
      splits = plannedSplits(a, d, i, tokens);
      const int mine = (splits > 1) == among ? splits : 0;
      if (left < mine) break;
      left -= mine;
    }
  const int source = __ffs(owner) - 1;
  slot.sequence = __shfl_sync(0xffffffffu, i, source);
  slot.splits = __shfl_sync(0xffffffffu, splits, source);
  slot.split = __shfl_sync(0xffffffffu, left, source);
  slot.first = number - slot.split;
  return true;
}

// Brings the first d.earlyPages pages of keys and values of each warp of a slot to L2. Nothing is read: that is allowed while earlier
// kernels still store into the cache, and makes use of a memory that is idle while a small kernel like the rotation of this step's keys
// runs or the last blocks of another end.
template <class C, int D>
__device__ __forceinline__ void fetchEarly(const Arguments& a, const DecodeLaunch& d, const DecodeSlot& slot, int warps, int warp, int lane) {
  const int seqLen = a.seqLens[slot.sequence], queryLen = a.queryStarts[slot.sequence + 1] - a.queryStarts[slot.sequence];
  if (seqLen <= 0) return;
  // What decodeSlot() makes of it, but for a window as its first row sees it: a page that nobody reads does no harm.
  const int lo = a.window > 0 ? max(0, seqLen - queryLen - a.window + 1) : 0, base = lo / kPageTokens * kPageTokens;
  const int leaf = leafTokens(seqLen - base, d.minLeafTokens, d.minLeafTokens > 0 ? kMaxLeaves : slot.splits);
  const int from = base + slot.split * leaf, end = (min(from + leaf, seqLen) + kPageTokens - 1) / kPageTokens;
  const int32_t* table = a.blockTable + a.seqRows[slot.sequence] * a.blockTableStride;
  constexpr int kTileBytes = kPageTokens * D * static_cast<int>(sizeof(C)), kLine = 128;
  const char* cache = static_cast<const char*>(a.cache) + int64_t{static_cast<int>(blockIdx.x) / d.tiles} * kTileBytes;
  for (int page = from / kPageTokens + warp, i = 0; i < d.earlyPages && page < end; ++i, page += warps) {
    const char* keys = cache + int64_t{2} * table[page] * a.numKvHeads * kTileBytes;
#pragma unroll
    for (int at = lane * kLine; at < kTileBytes; at += 32 * kLine) {
      prefetchToL2(keys + at);
      prefetchToL2(keys + int64_t{a.numKvHeads} * kTileBytes + at);
    }
  }
}

}  // namespace kvasir::cuda::attention
