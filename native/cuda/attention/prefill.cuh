// Prefill attention: a tile of 128 query rows against the keys it attends (FlashAttention-2; Dao, 2023).
//
// Grid (tile x kv head), kWarps warps with kM x 16 rows each. A row is one token of one head of the kv head's group; rows of a sequence are
// counted as token * group + head. Keys and values pass through shared memory in two stages of 64 keys (4 pages), copied in the background
// by the warp that owns the page; weights go from the score product's result registers straight into the next product. What a row's
// result is depends on no other row, nor on where its tile begins: stages start at multiples of 64 keys of the sequence.
// In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/prefill_fp8.cuh"
#include "cuda/attention/prefill_warp.cuh"

namespace kvasir::cuda::attention {

// The stages of a block of a 16-bit cache: two in shared memory, which take turns.
template <class T, class C, int D, int kWarps>
struct Stages {
  static_assert(sizeof(C) == sizeof(T));
  using Loader = StageLoader<T, D, kWarps>;
  static constexpr uint32_t kBytes = kStageKeys * D * 2;
  Loader loader;
  uint32_t shared;  // [2] of keys, [2] of values
  int begin;

  __device__ __forceinline__ Stages(const Arguments& a, const PrefillTile& tile, int lo, int hi, int first, char*, uint32_t memory)
      : loader{static_cast<const T*>(a.cache) + tile.kvHead * (kPageTokens * D) + Loader::firstChunkOf(threadIdx.x) * 8,
               a.blockTable + a.seqRows[tile.sequence] * a.blockTableStride, a.numKvHeads * kPageTokens * D, lo, hi, 0},
        shared(memory), begin(first) {}
  __device__ __forceinline__ uint32_t keys(int stage) const { return shared + (stage - begin) % 2 * kBytes; }
  __device__ __forceinline__ uint32_t values(int stage) const { return keys(stage) + 2 * kBytes; }
  __device__ __forceinline__ void fetch(int stage) { loader.fetch(stage); }
  __device__ __forceinline__ void start() { copy(begin); }
  // Makes a stage ready, and starts copying the next.
  __device__ __forceinline__ void turn(int stage, int end) {
    waitForCopies();
    __syncthreads();  // this stage is there for all, and all are done with the one that is overwritten now
    if (stage + 1 < end) copy(stage + 1);
  }

 private:
  __device__ __forceinline__ void copy(int stage) {
    loader.copy(stage, keys(stage), values(stage));
    commitCopies();
    loader.fetch(stage + 1);
  }
};

// Of a float8_e4m3 cache: one as it lies in the cache, which the next one's copies overwrite, and one widened.
template <class T, int D, int kWarps>
struct Stages<T, Fp8, D, kWarps> {
  using Loader = Fp8StageLoader<T, D, kWarps>;
  static constexpr uint32_t kBytes = kStageKeys * D * 2;
  Loader loader;
  char* memory;  // keys, values, raw
  uint32_t shared;
  int begin;

  __device__ __forceinline__ Stages(const Arguments& a, const PrefillTile& tile, int lo, int hi, int first, char* at, uint32_t address)
      : loader{static_cast<const uint8_t*>(a.cache) + tile.kvHead * (kPageTokens * D) + Loader::firstPieceOf(threadIdx.x) * Loader::kPiece,
               a.blockTable + a.seqRows[tile.sequence] * a.blockTableStride, a.numKvHeads * kPageTokens * D, lo, hi, 0},
        memory(at), shared(address), begin(first) {}
  __device__ __forceinline__ uint32_t keys(int) const { return shared; }
  __device__ __forceinline__ uint32_t values(int) const { return shared + kBytes; }
  __device__ __forceinline__ void fetch(int stage) { loader.fetch(stage); }
  __device__ __forceinline__ void start() { copy(begin); }
  __device__ __forceinline__ void turn(int stage, int end) {
    waitForCopies();
    __syncthreads();  // all are done with the stage before
    loader.widenStage(memory + 2 * kBytes, memory, memory + kBytes);
    __syncthreads();
    if (stage + 1 < end) copy(stage + 1);
  }

 private:
  __device__ __forceinline__ void copy(int stage) {
    loader.copy(stage, shared + 2 * kBytes);
    commitCopies();
    loader.fetch(stage + 1);
  }
};

// T: type of queries and output; C: of the cache.
template <class T, class C, int D, int kM, int kWarps>
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
  constexpr uint32_t kQueryBytes = kTileRows * D * 2;
  char* memory = reinterpret_cast<char*>(sharedMemory);
  memory += -static_cast<uint32_t>(__cvta_generic_to_shared(memory)) % kPrefillAlignment;
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory)), stages = shared + kQueryBytes;

  const int begin = lo / kStageKeys, end = (hi + kStageKeys - 1) / kStageKeys;
  Stages<T, C, D, kWarps> pages(a, tile, lo, hi, begin, memory + kQueryBytes, stages);
  pages.fetch(begin);
  loadQueryTile<T, D, kWarps * 32>(a, tile, memory, shared);
  pages.start();

  PrefillWarp<T, D, kM> rows;
  rows.begin(a, tile, context, firstRow);
  const bool hooks = a.softCap > 0 || a.slopes || !(a.scale > 0), idle = firstRow >= tile.rows;
  const float unit = hooks ? 1.0f : a.scale * kLog2e;
  for (int stage = begin; stage < end; ++stage) {
    pages.turn(stage, end);
    if (stage == begin && !idle) rows.keepQueries(shared + firstRow * (D * 2), lane);
    if (!idle) rows.attend(a, tile.kvHead, stage, shared + firstRow * (D * 2), pages.keys(stage), pages.values(stage), hooks, unit);
  }
  if (!idle) rows.finish(a, tile, memory, firstRow, unit, lane);
}

template <class T, class C, int D, int kM, int kWarps>
void launchPrefill(const Arguments& a, cudaStream_t s) {
  const auto kernel = prefillKernel<T, C, D, kM, kWarps>;
  const int bytes = static_cast<int>(prefillSharedBytes(D, sizeof(C)));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t tiles = prefillTile(int64_t{a.numTokens} * a.group, a.numSeqs) + 1;
  kernel<<<static_cast<unsigned>(tiles * a.numKvHeads), kWarps * 32, static_cast<size_t>(bytes), s>>>(a);
}

template <class T, class C = T>
void dispatchPrefill(const Arguments& a, cudaStream_t s) {
  switch (a.headDim) {
    case 64: return launchPrefill<T, C, 64, 2, 4>(a, s);
    case 80: return launchPrefill<T, C, 80, 2, 4>(a, s);
    case 96: return launchPrefill<T, C, 96, 2, 4>(a, s);
    case 128: return launchPrefill<T, C, 128, 2, 4>(a, s);
    default: return launchPrefill<T, C, 256, 1, 8>(a, s);
  }
}

}  // namespace kvasir::cuda::attention
