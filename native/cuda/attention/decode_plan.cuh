// Which sequence and which part of it a decode block works on. Every warp works it out for itself from the lengths of all sequences, so
// that a long one among short ones gets as many blocks as its keys deserve, and the grid depends on nothing but shapes.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/plan.h"

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

}  // namespace kvasir::cuda::attention
