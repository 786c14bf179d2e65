// Prefill attention: a tile of 128 query rows against the keys it attends (FlashAttention-2; Dao, 2023).
//
// Grid (tile x kv head), kWarps warps with kM x 16 rows each. A row is one token of one head of the kv head's group; rows of a sequence are
// counted as token * group + head. Keys and values pass through shared memory in two stages of 64 keys (4 pages), copied in the background
// by the warp that owns the page; weights go from the score product's result registers straight into the next product. What a row's
// result is depends on no other row, nor on where its tile begins: stages start at multiples of 64 keys of the sequence.
// In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/prefill_warp.cuh"

namespace kvasir::cuda::attention {

template <class T, int D, int kM, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kM == 2 ? 2 : 1) prefillKernel(const Arguments a) {
  static_assert(kM * kWarps * 16 == kTileRows);
  extern __shared__ uint4 sharedMemory[];
  PrefillTile tile;
  tile.kvHead = static_cast<int>(blockIdx.x) % a.numKvHeads;
  if (!findTile(a, static_cast<int>((gridDim.x - 1 - blockIdx.x) / a.numKvHeads), tile)) return;  // the last tiles of a sequence attend most: they start first
  const int seqLen = tile.sequence < a.numSeqs ? a.seqLens[tile.sequence] : 0;
  if (seqLen <= 0) return zeroTile<T, D, kWarps * 32>(a, tile);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, firstRow = warp * kM * 16;
  const int context = seqLen - tile.queryLen;
  const int lo = a.window > 0 ? max(0, context + tile.first / a.group - a.window + 1) : 0;
  const int hi = context + (tile.first + tile.rows - 1) / a.group + 1;
  constexpr uint32_t kStageBytes = kStageKeys * D * 2, kQueryBytes = kTileRows * D * 2;
  char* memory = reinterpret_cast<char*>(sharedMemory);
  memory += -static_cast<uint32_t>(__cvta_generic_to_shared(memory)) % kPrefillAlignment;
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory)), stages = shared + kQueryBytes;

  using Loader = StageLoader<T, D, kWarps>;
  const int pageStride = a.numKvHeads * kPageTokens * D;
  Loader loader{static_cast<const T*>(a.cache) + tile.kvHead * (kPageTokens * D) + Loader::firstChunkOf(threadIdx.x) * 8,
                a.blockTable + a.seqRows[tile.sequence] * a.blockTableStride, pageStride, lo, hi, 0};
  const int begin = lo / kStageKeys, end = (hi + kStageKeys - 1) / kStageKeys;
  loader.fetch(begin);
  loadQueryTile<T, D, kWarps * 32>(a, tile, memory, shared);
  loader.copy(begin, stages, stages + 2 * kStageBytes);
  commitCopies();
  loader.fetch(begin + 1);

  PrefillWarp<T, D, kM> rows;
  rows.begin(a, tile, context, firstRow);
  const bool hooks = a.softCap > 0 || a.slopes || !(a.scale > 0), idle = firstRow >= tile.rows;
  const float unit = hooks ? 1.0f : a.scale * kLog2e;
  for (int stage = begin; stage < end; ++stage) {
    const uint32_t current = stages + (stage - begin) % 2 * kStageBytes, next = stages + (stage - begin + 1) % 2 * kStageBytes;
    waitForCopies();
    __syncthreads();  // this stage is there for all, and all are done with the one that is overwritten now
    if (stage + 1 < end) {
      loader.copy(stage + 1, next, next + 2 * kStageBytes);
      commitCopies();
      loader.fetch(stage + 2);
    }
    if (stage == begin && !idle) rows.keepQueries(shared + firstRow * (D * 2), lane);
    if (!idle) rows.attend(a, tile.kvHead, stage, shared + firstRow * (D * 2), current, current + 2 * kStageBytes, hooks, unit);
  }
  if (!idle) rows.finish(a, tile, memory, firstRow, unit, lane);
}

template <class T, int D, int kM, int kWarps>
void launchPrefill(const Arguments& a, cudaStream_t s) {
  const auto kernel = prefillKernel<T, D, kM, kWarps>;
  const int bytes = static_cast<int>(prefillSharedBytes(D));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t tiles = prefillTile(int64_t{a.numTokens} * a.group, a.numSeqs) + 1;
  kernel<<<static_cast<unsigned>(tiles * a.numKvHeads), kWarps * 32, static_cast<size_t>(bytes), s>>>(a);
}

template <class T>
void dispatchPrefill(const Arguments& a, cudaStream_t s) {
  switch (a.headDim) {
    case 64: return launchPrefill<T, 64, 2, 4>(a, s);
    case 80: return launchPrefill<T, 80, 2, 4>(a, s);
    case 96: return launchPrefill<T, 96, 2, 4>(a, s);
    case 128: return launchPrefill<T, 128, 2, 4>(a, s);
    default: return launchPrefill<T, 256, 1, 8>(a, s);
  }
}

}  // namespace kvasir::cuda::attention
