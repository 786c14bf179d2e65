// How paged attention is cut into blocks: pure functions of shapes that the host knows, and of a sequence's own length on the device.
// With kMinLeafTokens a query's result does not depend on the batch: leaves of a sequence and the order in which they merge follow from
// its length.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KVASIR_BOTH __host__ __device__
#else
#define KVASIR_BOTH
#endif

namespace kvasir::cuda::attention {

// Decode: the keys of a sequence are cut into at most kMaxLeaves leaves of equal length. With leaves of at least kMinLeafTokens a result
// depends on its sequence alone, bit for bit; otherwise (0) a block's share is one leaf, which spares merging.
inline constexpr int kMaxLeaves = 32;
inline constexpr int kMinLeafTokens = 256;
inline constexpr int kLeafStep = 64;  // a page for each of a block's four warps
inline constexpr int kShortRows = 16;  // query tokens x heads of the group that still count as decode

// How many blocks share a sequence follows from the lengths of all sequences of a launch: as many as run at once, and more where a block
// would have more than kBlockTokens keys, so that blocks which end late are short.
inline constexpr int kBlockTokens = 2048;
inline constexpr int kManyBlocks = 8;  // per multiprocessor

// Pages of keys and values that each warp has brought to L2 before the kernel before has ended (attention_cuda_bench early).
inline constexpr int kEarlyPages = 0;

// Blocks of a multiprocessor at once: registers for a page of keys and one of values, and sixteen warps or so to hide the latency.
// Pages of one-byte elements are half as large.
KVASIR_BOTH constexpr int decodeOccupancy(int headDim, int tiles, int64_t elementBytes) {
  if (tiles > 1 || headDim > 128) return 2;
  return headDim > 64 ? (elementBytes == 1 ? 3 : 2) : 4;
}

// Prefill: rows (query tokens x heads of the group) of one block.
inline constexpr int kTileRows = 128;

KVASIR_BOTH constexpr bool isDecode(int queryLen, int group) { return queryLen <= 1 || queryLen * group <= kShortRows; }

// Tokens of each of at most `leaves` leaves of a sequence that attends `keys` keys, at least `least` (a multiple of kLeafStep, or 0).
KVASIR_BOTH constexpr int leafTokens(int keys, int least, int leaves = kMaxLeaves) {
  const int even = (keys + leaves - 1) / leaves;
  const int tokens = (even + kLeafStep - 1) / kLeafStep * kLeafStep;
  return tokens > least ? tokens : least;
}
KVASIR_BOTH constexpr int leafCount(int keys, int least) {
  const int tokens = leafTokens(keys, least);
  return (keys + tokens - 1) / tokens;
}

// Keys that each block of a launch should take, where all (sequence, kv head, tile of rows) attend `keys`. More than keys / many: the
// splits of sequences with several are at most `many` over all pairs, which is what there is memory for. Every warp computes it before it
// loads anything, in float: 64-bit divisions are slow.
KVASIR_BOTH constexpr int blockTokens(float keys, int few, int many) {
  const float fill = keys / static_cast<float>(few), crowd = keys / static_cast<float>(many);
  const float most = crowd > kBlockTokens ? crowd : kBlockTokens, tokens = fill < most ? fill : most;
  return tokens > kLeafStep ? static_cast<int>(tokens * 1.0001f) + 1 : kLeafStep;
}

// Blocks that share the leaves of a (sequence, kv head, tile): a power of two. Block x takes leaves x, x + splits, ..
KVASIR_BOTH constexpr int splitsOf(int keys, int tokens, int least) {
  const int steps = (keys + kLeafStep - 1) / kLeafStep, leaves = least > 0 ? leafCount(keys, least) : steps < kMaxLeaves ? steps : kMaxLeaves;
  int splits = 1;
  while (splits < leaves && 2 * splits * tokens <= keys) splits *= 2;  // 32 * tokens fits: a block has fewer than 2^26 keys
  return splits;
}

// Prefill: tiles of all sequences are numbered in one row without knowing how they are cut. Sequence i (from row `firstRow` of the
// batch) has the numbers from prefillTile(firstRow, i) to before its successor's, at least as many as it needs; what follows the last
// sequence counts as one more.
KVASIR_BOTH constexpr int64_t prefillTile(int64_t firstRow, int sequence) { return firstRow / kTileRows + sequence; }

}  // namespace kvasir::cuda::attention
