// Decode attention: few query rows against many keys (split-KV; Dao et al., Flash-Decoding, 2023).
//
// Grid (kv head x tile of rows, slot), 128 threads. A slot is a part of a sequence (decode_plan.cuh). The query rows of a sequence and kv
// head are its tokens x the group's heads; a tile of up to 8 * kTiles of them is one matrix operand. The keys it attends are cut into
// leaves (plan.h); block `split` works through leaves split, split + splits, .., in each of which warp w takes pages w, w + 4, ... The
// results of warps merge in order, those of leaves as a tree: leaf i with leaf i + 16, then i + 8, 4, 2, 1. A block's own leaves are a
// subtree, so for given leaves the number of blocks does not change a bit. The block that arrives last merges the blocks' results and writes the rows.
#pragma once

#include "cuda/attention/decode_plan.cuh"
#include "cuda/attention/decode_warp.cuh"
#include "cuda/convert.cuh"

namespace kvasir::cuda::attention {

inline constexpr int kStackLevels = 5;  // log2(kMaxLeaves)

// Floats between records in shared memory: 16-byte aligned, rows in different banks.
constexpr int recordStride(int headDim) { return headDim + 4; }
constexpr int64_t decodeSharedBytes(int headDim, int tileRows) {
  return int64_t{kDecodeWarps + kStackLevels} * tileRows * recordStride(headDim) * static_cast<int64_t>(sizeof(float));
}

// A tile of rows, the same in all threads.
struct Tile {
  int kvHead, firstToken;  // the sequence's first row of q and out
  int first, rows;         // rows of the sequence, counted as token * group + head
  int64_t pair;            // of (sequence, kv head, tile)
};

template <class T, int D>
__device__ __forceinline__ T* outRow(const Arguments& a, const Tile& tile, int row) {
  const int token = tile.firstToken + (tile.first + row) / a.group, head = tile.kvHead * a.group + (tile.first + row) % a.group;
  return static_cast<T*>(a.out) + (int64_t{token} * a.numHeads + head) * D;
}

template <class T, int D>
__device__ __forceinline__ void writeRow(const Arguments& a, const Tile& tile, int row, const RowState<D>& state, int lane) {
  const int head = tile.kvHead * a.group + (tile.first + row) % a.group;
  const float factor = finalFactor(state.m, state.l, a.sinks ? a.sinks + head : nullptr, a.valueScale);
  T* out = outRow<T, D>(a, tile, row);
#pragma unroll
  for (int i = 0; i < RowState<D>::kPairs; ++i)
    if (2 * lane + 64 * i < D)
      *reinterpret_cast<uint32_t*>(out + 2 * lane + 64 * i) = packPair<T>(state.o[i].x * factor, state.o[i].y * factor);
}

template <class T, int D>
__device__ __forceinline__ void zeroRows(const Arguments& a, const Tile& tile) {
  for (int i = threadIdx.x; i < tile.rows * (D / 2); i += kDecodeWarps * 32)
    reinterpret_cast<uint32_t*>(outRow<T, D>(a, tile, i / (D / 2)))[i % (D / 2)] = 0;
}

// Queries as right operands, their positions and slopes. Rows past the tile are zero.
template <class T, class C, int D, int kTiles>
__device__ __forceinline__ void loadQueries(DecodeWarp<T, C, D, kTiles>& warp, const Arguments& a, const Tile& tile, int context, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int row = tile.first + min(n * 8 + 2 * t + c, tile.rows - 1);
      warp.pos[n][c] = context + row / a.group;
      warp.slope[n][c] = a.slopes ? a.slopes[tile.kvHead * a.group + row % a.group] * kLog2e : 0.0f;
    }
    const int row = tile.first + n * 8 + g;
    const T* q = static_cast<const T*>(a.q) + (tile.firstToken + row / a.group) * a.qTokenStride + (tile.kvHead * a.group + row % a.group) * a.qHeadStride;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) warp.q[n][step][0] = warp.q[n][step][1] = 0;
    if (n * 8 + g >= tile.rows) continue;
    if (a.alignedQ) {
      DecodePage<T, C, D>::loadRow(warp.q[n], q, t);
      continue;
    }
    const uint16_t* bits = reinterpret_cast<const uint16_t*>(q);
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        const uint16_t* pair = bits + DecodePage<T, C, D>::keyDim(step, t) + 2 * w;
        warp.q[n][step][w] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
  }
}

// The four warps' results of a row, merged in order. A warp that saw no key has stored no values.
template <int D>
__device__ __forceinline__ RowState<D> mergeWarps(const float* records, int row, int tileRows, int lane) {
  RowState<D> state;
  state.clear();
#pragma unroll
  for (int w = 0; w < kDecodeWarps; ++w) {
    const float* record = records + (w * tileRows + row) * recordStride(D);
    if (record[D] == negativeInfinity()) continue;
    RowState<D> other;
    other.load(record, lane);
    merge(state, other);
  }
  return state;
}

// One level of the tree of partial results, and those above it. Lane x keeps the factors of each level's node x.
template <int kHalf>
__device__ __forceinline__ void mergeLevels(float2 (&v)[kMaxLeaves], const float2 (&factors)[kStackLevels], int used) {
  constexpr int kLevel = kHalf == 16 ? 0 : kHalf == 8 ? 1 : kHalf == 4 ? 2 : kHalf == 2 ? 3 : 4;
  if (kHalf < used)
#pragma unroll
    for (int x = 0; x < kHalf; ++x) {
      const float2 f = make_float2(__shfl_sync(0xffffffffu, factors[kLevel].x, x), __shfl_sync(0xffffffffu, factors[kLevel].y, x));
      if (x + kHalf < used) v[x] = mergeValues(v[x], v[x + kHalf], f);
    }
  if constexpr (kHalf > 1) mergeLevels<kHalf / 2>(v, factors, used);
}

// One pair of a row's values in each of `used` partial results, merged as the tree does it.
__device__ __forceinline__ float2 mergePartials(const float* values, int distance, const float2 (&factors)[kStackLevels], int used) {
  static_assert(kMaxLeaves == 32 && kStackLevels == 5);
  float2 v[kMaxLeaves];
#pragma unroll
  for (int x = 0; x < kMaxLeaves; ++x, values += distance) v[x] = x < used ? __ldcg(reinterpret_cast<const float2*>(values)) : make_float2(0, 0);
  mergeLevels<kMaxLeaves / 2>(v, factors, used);
  return v[0];
}

// Merges the blocks' partial results of a row, the top of the tree, and writes the row.
template <class T, int D>
__device__ __forceinline__ void combineRow(const Arguments& a, const Tile& tile, const float* partials, int distance, int row, int used, int lane) {
  RowState<D> state;
  state.m = negativeInfinity();
  state.l = 0;
  if (lane < used) {
    const float2 ml = __ldcg(reinterpret_cast<const float2*>(partials + lane * distance + D));
    state.m = ml.x;
    state.l = ml.y;
  }
  float2 factors[kStackLevels];
#pragma unroll
  for (int level = 0; level < kStackLevels; ++level) {
    const int half = kMaxLeaves / 2 >> level;
    const float otherM = __shfl_down_sync(0xffffffffu, state.m, half), otherL = __shfl_down_sync(0xffffffffu, state.l, half);
    factors[level] = make_float2(1.0f, 0.0f);
    if (lane < half && lane + half < used) factors[level] = mergeFactors(state.m, state.l, otherM, otherL);
  }
  state.m = __shfl_sync(0xffffffffu, state.m, 0);
  state.l = __shfl_sync(0xffffffffu, state.l, 0);
#pragma unroll
  for (int i = 0; i < RowState<D>::kPairs; ++i) state.o[i] = mergePartials(partials + min(2 * lane + 64 * i, D - 2), distance, factors, used);
  writeRow<T, D>(a, tile, row, state, lane);
}

// What a block knows of its work, in shared memory: registers are for keys and values.
struct BlockState {
  Tile tile;
  DecodeSlot slot;
  int used;     // blocks that have leaves
  int context;  // tokens before the query
  KeyRange keys;
  BlockLeaves leaves;
};

template <class T, class C, int D, int kTiles>
struct DecodeBlock {
  const Arguments& a;
  const DecodeLaunch& d;
  const BlockState& b;
  float* shared;  // records [4 warps][tileRows], then [levels][tileRows]
  int warp, lane;

  // Partial results of a kv head and tile are gridDim.x apart.
  __device__ __forceinline__ float* partial(int split, int row) const {
    return d.partials + ((int64_t{b.slot.first + split} * gridDim.x + blockIdx.x) * d.tileRows + row) * (D + 2);
  }

  // Position `at` (of 2^depth) of the block's leaves in tree order is done, `have`: it was a leaf. Merges what is complete; after the
  // last one stores the block's result. held: levels of the stack that hold a state.
  __device__ __forceinline__ void push(int at, int depth, bool have, uint32_t& held) const {
    const int level = __ffs(~at) - 1;
    const uint32_t joins = held & ((1u << level) - 1);
    const bool done = level == depth;
    held &= ~((1u << level) - 1);
    if (!have && !joins) return;
    if (!done) held |= 1u << level;
    float* stack = shared + kDecodeWarps * d.tileRows * recordStride(D);
    for (int row = warp; row < b.tile.rows; row += kDecodeWarps) {
      RowState<D> state;
      bool empty = !have;
      if (have) state = mergeWarps<D>(shared, row, d.tileRows, lane);
      for (int i = 0; i < level; ++i)
        if (joins >> i & 1) {
          RowState<D> left;
          left.load(stack + (i * d.tileRows + row) * recordStride(D), lane);
          if (!empty) merge(left, state);
          state = left;
          empty = false;
        }
      if (!done) state.store(stack + (level * d.tileRows + row) * recordStride(D), lane);
      else if (b.used == 1) writeRow<T, D>(a, b.tile, row, state, lane);
      else state.store(partial(b.slot.split, row), lane);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void attend(const int32_t* table) const {
    const Logits logit(a);
    const volatile BlockLeaves& leaves = b.leaves;
    const int page = kPageTokens * D;
    PageStream<C> pages{leaves, static_cast<const C*>(a.cache) + int64_t{b.tile.kvHead} * page, table, a.numKvHeads * page};
    pages.begin();
    DecodeWarp<T, C, D, kTiles> w;
    loadQueries(w, a, b.tile, b.context, lane);
    w.begin(pages, lane);
    uint32_t held = 0;
    for (int at = 0; at < 1 << leaves.depth; ++at) {
      const bool have = leaves.has(at);
      if (have) {
        w.clear();
        const int end = leaves.endPage(at);
        for (int i = leaves.firstPage(at) + warp; i < end; i += kDecodeWarps) w.attend(pages, b.keys, logit, i * kPageTokens, lane);
        __syncthreads();  // the records are free
        w.store(shared + warp * d.tileRows * recordStride(D), recordStride(D), b.tile.rows, lane);
        __syncthreads();
      }
      push(at, leaves.depth, have, held);
    }
  }

  // True in the block that is last to get here; its partial results and all others' are then visible to it.
  __device__ __forceinline__ bool arriveLast() const {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      last = atomicAdd(d.arrivals + b.tile.pair, 1) == b.used - 1;
      if (last) d.arrivals[b.tile.pair] = 0;
      __threadfence();
    }
    __syncthreads();
    return last;
  }
};

// All tiles of one slot.
template <class T, class C, int D, int kTiles>
__device__ __forceinline__ void decodeSlot(const Arguments& a, const DecodeLaunch& d, const DecodeSlot& slot, BlockState& state, float* shared, int warp, int lane) {
  const int tileIndex = blockIdx.x % d.tiles, start = a.queryStarts[slot.sequence], queryLen = a.queryStarts[slot.sequence + 1] - start;
  const int seqLen = a.seqLens[slot.sequence], total = queryLen * a.group, perRound = d.tiles * d.tileRows;
  Tile tile{static_cast<int>(blockIdx.x) / d.tiles, start, 0, 0, int64_t{slot.sequence} * gridDim.x + blockIdx.x};
  for (tile.first = tileIndex * d.tileRows; tile.first < total; tile.first += perRound) {
    tile.rows = min(d.tileRows, total - tile.first);
    if (seqLen <= 0) {
      zeroRows<T, D>(a, tile);
      continue;
    }
    const int context = seqLen - queryLen, minPos = context + tile.first / a.group, maxPos = context + (tile.first + tile.rows - 1) / a.group;
    const int lo = a.window > 0 ? max(0, minPos - a.window + 1) : 0, hi = maxPos + 1, base = lo / kPageTokens * kPageTokens;
    const int leaf = leafTokens(hi - base, d.minLeafTokens, d.minLeafTokens > 0 ? kMaxLeaves : slot.splits);
    const int leaves = (hi - base + leaf - 1) / leaf, used = min(slot.splits, leaves);
    if (slot.split >= used) return;
    const int count = (leaves - slot.split + slot.splits - 1) / slot.splits;
    __syncthreads();  // all are done with the round before
    if (threadIdx.x == 0)
      state = {tile, slot, used, context, {lo, hi, minPos, maxPos, a.window}, {base, hi, leaf, slot.split, slot.splits, count, count > 1 ? 32 - __clz(count - 1) : 0}};
    __syncthreads();
    const DecodeBlock<T, C, D, kTiles> block{a, d, state, shared, warp, lane};
    block.attend(a.blockTable + a.seqRows[slot.sequence] * a.blockTableStride);
    if (state.used == 1 || !block.arriveLast()) continue;
    for (int row = warp; row < state.tile.rows; row += kDecodeWarps)
      combineRow<T, D>(a, state.tile, block.partial(0, row), static_cast<int>(gridDim.x) * d.tileRows * (D + 2), row, state.used, lane);
  }
}

template <class T, class C, int D, int kTiles>
__global__ void __launch_bounds__(kDecodeWarps * 32, decodeOccupancy(D, kTiles, sizeof(C))) decodeKernel(const Arguments a, const DecodeLaunch d) {
  extern __shared__ float4 sharedMemory[];
  __shared__ BlockState state;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.y;
  letNextStart();
  // The plan is worked out while the kernel before still runs: lengths and block tables are inputs of the step, which copies and kernels
  // that never let the next one start early have written.
  DecodeSlot slot;
  int number = blockIdx.y, slots = 0;
  bool found = findSlot(a, d, number, lane, slot, slots);
  if (found) asm volatile("prefetch.global.L1 [%0];" ::"l"(a.blockTable + a.seqRows[slot.sequence] * a.blockTableStride + warp));
  if (found && d.earlyPages > 0) fetchEarly<C, D>(a, d, slot, kDecodeWarps, warp, lane);
  waitForPrevious();
  if (d.all && blockIdx.x % d.tiles == 0 && token < a.numTokens && token >= a.queryStarts[a.numSeqs])
    zeroRows<T, D>(a, Tile{static_cast<int>(blockIdx.x) / d.tiles, token, 0, a.group, 0});  // as many tokens as sequences, and at least as many rows of blocks
  while (found) {
    decodeSlot<T, C, D, kTiles>(a, d, slot, state, reinterpret_cast<float*>(sharedMemory), warp, lane);
    number += gridDim.y;  // more slots than rows of blocks: where a long sequence is among many short ones
    found = number < slots && findSlot(a, d, number, lane, slot, slots);
  }
}

template <class T, class C, int D, int kTiles>
void launchDecode(const Arguments& a, const DecodeLaunch& d, Chain chain) {
  const auto kernel = decodeKernel<T, C, D, kTiles>;
  const int bytes = static_cast<int>(decodeSharedBytes(D, d.tileRows));
  if (bytes > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const dim3 grid(static_cast<unsigned>(a.numKvHeads * d.tiles), static_cast<unsigned>(d.rows));
  chain.sharedBytes = bytes;
  launchChained(chain, kernel, grid, kDecodeWarps * 32, a, d);
}

// T: type of queries and output; C: of the cache.
template <class T, class C = T>
void dispatchDecode(const Arguments& a, const DecodeLaunch& d, Chain s) {
  const bool two = d.tileRows > 8;
  switch (a.headDim) {
    case 64: return two ? launchDecode<T, C, 64, 2>(a, d, s) : launchDecode<T, C, 64, 1>(a, d, s);
    case 80: return two ? launchDecode<T, C, 80, 2>(a, d, s) : launchDecode<T, C, 80, 1>(a, d, s);
    case 96: return two ? launchDecode<T, C, 96, 2>(a, d, s) : launchDecode<T, C, 96, 1>(a, d, s);
    case 128: return two ? launchDecode<T, C, 128, 2>(a, d, s) : launchDecode<T, C, 128, 1>(a, d, s);
    default: return launchDecode<T, C, 256, 1>(a, d, s);
  }
}

}  // namespace kvasir::cuda::attention
