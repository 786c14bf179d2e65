// How paged attention is cut into blocks: pure functions of shapes that the host knows, and of a sequence's own length on the device.
// What a query's result is depends on none of the batch: leaves of a sequence and the order in which they merge follow from its length.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KVASIR_BOTH __host__ __device__
#else
#define KVASIR_BOTH
#endif

namespace kvasir::cuda::attention {

// Decode: the keys of a sequence are cut into at most kMaxLeaves leaves of equal length.
inline constexpr int kMaxLeaves = 32;
inline constexpr int kMinLeafTokens = 256;
inline constexpr int kLeafStep = 64;  // a page for each of a block's four warps
inline constexpr int kMaxPartials = 8192;
inline constexpr int kShortRows = 16;  // query tokens x heads of the group that still count as decode

// Prefill: rows (query tokens x heads of the group) of one block.
inline constexpr int kTileRows = 128;

KVASIR_BOTH constexpr bool isDecode(int queryLen, int group) { return queryLen <= 1 || queryLen * group <= kShortRows; }

// Tokens of each leaf of a sequence that attends `keys` keys.
KVASIR_BOTH constexpr int leafTokens(int keys) {
  const int even = (keys + kMaxLeaves - 1) / kMaxLeaves;
  const int tokens = (even + kLeafStep - 1) / kLeafStep * kLeafStep;
  return tokens > kMinLeafTokens ? tokens : kMinLeafTokens;
}

// Blocks that share the leaves of one (sequence, kv head, tile of rows): a power of two. Block x takes leaves x, x + splits, ..
// Enough of them to fill the device when there are few sequences, and to spread a long sequence in a batch of short ones; no more,
// because most find nothing to do in a batch of short sequences.
//   pairs: sequences x kv heads x tiles; maxKeys: what a row of the block table holds
constexpr int decodeSplits(int64_t pairs, int64_t maxKeys, int multiprocessors) {
  int64_t leaves = (maxKeys + kMinLeafTokens - 1) / kMinLeafTokens;
  if (leaves > kMaxLeaves) leaves = kMaxLeaves;
  const int64_t target = int64_t{4} * multiprocessors;
  int splits = 1;
  while (splits < leaves) {
    const int64_t next = pairs * splits * 2;
    const bool fills = next <= target, spreads = splits < 4 && next <= kMaxPartials;
    if (!fills && !spreads) break;
    splits *= 2;
  }
  return splits;
}

// The most partial results that a launch of at most `pairs` pairs stores.
constexpr int64_t decodePartials(int64_t pairs, int multiprocessors) {
  const int64_t few = int64_t{4} * multiprocessors, many = 4 * pairs < kMaxPartials ? 4 * pairs : kMaxPartials;
  return few > many ? few : many;
}

// Prefill: tiles of all sequences are numbered in one row without knowing how they are cut. Sequence i (from row `firstRow` of the
// batch) has the numbers from prefillTile(firstRow, i) to before its successor's, at least as many as it needs; what follows the last
// sequence counts as one more.
KVASIR_BOTH constexpr int64_t prefillTile(int64_t firstRow, int sequence) { return firstRow / kTileRows + sequence; }

}  // namespace kvasir::cuda::attention
