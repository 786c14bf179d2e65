// Decode attention: few query rows against many keys (split-KV; Dao et al., Flash-Decoding, 2023).
//
// Grid (kv head x tile of rows, sequence, split), 128 threads. The query rows of a sequence and kv head are its tokens x the group's heads;
// a tile of up to 8 * kTiles of them is one matrix operand. The keys it attends are cut into leaves (plan.h); block `split` works through
// leaves split, split + splits, .., in each of which warp w takes pages w, w + 4, ... The results of warps merge in order, those of leaves
// as a tree: leaf i with leaf i + 16, then i + 8, 4, 2, 1. A block's own leaves are a subtree, so the number of blocks does not change a
// bit. The block that arrives last merges the blocks' results and writes the rows.
#pragma once

#include "cuda/attention/decode_warp.cuh"
#include "cuda/attention/plan.h"
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
  const float factor = finalFactor(state.m, state.l, a.sinks ? a.sinks + head : nullptr);
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
template <class T, int D, int kTiles>
__device__ __forceinline__ void loadQueries(DecodeWarp<T, D, kTiles>& warp, const Arguments& a, const Tile& tile, int context, int lane) {
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
      loadKey<T, D>(warp.q[n], q, t);
      continue;
    }
    const uint16_t* bits = reinterpret_cast<const uint16_t*>(q);
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        const uint16_t* pair = bits + keyDim<D>(step, t) + 2 * w;
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

// Values `x`, x + kStep, x + 2 kStep, .. of a row's partial results as the tree merges them. Lane x keeps the factors of each level's node x.
template <int kStep>
__device__ __forceinline__ float2 mergePartials(const float* values, int64_t distance, const float2 (&factors)[kStackLevels], int level, int x, int used) {
  if constexpr (kStep == kMaxLeaves) {
    return __ldcg(reinterpret_cast<const float2*>(values + x * distance));
  } else {
    const float2 left = mergePartials<2 * kStep>(values, distance, factors, level - 1, x, used);
    if (x + kStep >= used) return left;
    const float2 right = mergePartials<2 * kStep>(values, distance, factors, level - 1, x + kStep, used);
    return mergeValues(left, right, make_float2(__shfl_sync(0xffffffffu, factors[level].x, x), __shfl_sync(0xffffffffu, factors[level].y, x)));
  }
}

// Merges the blocks' partial results of a row, the top of the tree, and writes the row.
template <class T, int D>
__device__ __forceinline__ void combineRow(const Arguments& a, const Tile& tile, const float* partials, int64_t distance, int row, int used, int lane) {
  RowState<D> state;
  state.m = negativeInfinity();
  state.l = 0;
  if (lane < used) {
    state.m = __ldcg(partials + lane * distance + D);
    state.l = __ldcg(partials + lane * distance + D + 1);
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
  for (int i = 0; i < RowState<D>::kPairs; ++i)
    state.o[i] = mergePartials<1>(partials + min(2 * lane + 64 * i, D - 2), distance, factors, kStackLevels - 1, 0, used);
  writeRow<T, D>(a, tile, row, state, lane);
}

template <class T, int D, int kTiles>
struct DecodeBlock {
  const Arguments& a;
  const DecodeLaunch& d;
  const Tile& tile;
  float* shared;  // records [4 warps][tileRows], then [levels][tileRows]
  int warp, lane;

  __device__ __forceinline__ float* partial(int split, int row) const {
    return d.partials + ((tile.pair * d.splits + split) * d.tileRows + row) * (D + 2);
  }

  // Position `at` (of 2^depth) of the block's leaves in tree order is done, `have`: it was a leaf. Merges what is complete; after the
  // last one stores the block's result. held: levels of the stack that hold a state.
  __device__ __forceinline__ void push(int at, int depth, bool have, bool alone, uint32_t& held) const {
    const int level = __ffs(~at) - 1;
    const uint32_t joins = held & ((1u << level) - 1);
    const bool done = level == depth;
    held &= ~((1u << level) - 1);
    if (!have && !joins) return;
    if (!done) held |= 1u << level;
    float* stack = shared + kDecodeWarps * d.tileRows * recordStride(D);
    for (int row = warp; row < tile.rows; row += kDecodeWarps) {
      RowState<D> state;
      state.clear();
      if (have) state = mergeWarps<D>(shared, row, d.tileRows, lane);
      for (int i = 0; i < level; ++i)
        if (joins >> i & 1) {
          RowState<D> left;
          left.load(stack + (i * d.tileRows + row) * recordStride(D), lane);
          merge(left, state);
          state = left;
        }
      if (!done) state.store(stack + (level * d.tileRows + row) * recordStride(D), lane);
      else if (alone) writeRow<T, D>(a, tile, row, state, lane);
      else state.store(partial(blockIdx.z, row), lane);
    }
    __syncwarp();
  }

  // Leaves `split`, split + blocks, .. of `leaves`.
  __device__ __forceinline__ void attend(const TileKeys<T>& keys, int context, int base, int leaf, int leaves, int blocks) const {
    const Logits logit(a);
    DecodeWarp<T, D, kTiles> w;
    loadQueries(w, a, tile, context, lane);
    const int split = blockIdx.z, mine = (leaves - split + blocks - 1) / blocks;
    const int depth = mine > 1 ? 32 - __clz(mine - 1) : 0;
    uint32_t held = 0;
    for (int at = 0; at < 1 << depth; ++at) {
      const int index = depth ? static_cast<int>(__brev(at) >> (32 - depth)) : 0;
      const bool have = index < mine;
      if (have) {
        const int from = base + (split + index * blocks) * leaf, to = min(from + leaf, keys.hi);
        w.attend(keys, logit, from / kPageTokens + warp, (to + kPageTokens - 1) / kPageTokens, lane);
        __syncthreads();  // the records are free
        w.store(shared + warp * d.tileRows * recordStride(D), recordStride(D), tile.rows, lane);
        __syncthreads();
      }
      push(at, depth, have, min(blocks, leaves) == 1, held);
    }
  }

  // True in the block that is last to get here; its partial results and all others' are then visible to it.
  __device__ __forceinline__ bool arriveLast(int used) const {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      last = atomicAdd(d.arrivals + tile.pair, 1) == used - 1;
      if (last) d.arrivals[tile.pair] = 0;
      __threadfence();
    }
    __syncthreads();
    return last;
  }
};

template <class T, int D, int kTiles>
__global__ void __launch_bounds__(kDecodeWarps * 32, D <= 128 && kTiles == 1 ? 3 : 2) decodeKernel(const Arguments a, const DecodeLaunch d) {
  extern __shared__ float4 sharedMemory[];
  const int sequence = blockIdx.y, split = blockIdx.z, tileIndex = blockIdx.x % d.tiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int start = a.queryStarts[sequence], queryLen = a.queryStarts[sequence + 1] - start, seqLen = a.seqLens[sequence];
  const int total = queryLen * a.group, perRound = d.tiles * d.tileRows;
  Tile tile{static_cast<int>(blockIdx.x) / d.tiles, start, 0, 0, (int64_t{sequence} * a.numKvHeads) * d.tiles + blockIdx.x};
  if (d.all && split == 0 && tileIndex == 0 && sequence >= a.queryStarts[a.numSeqs])
    zeroRows<T, D>(a, Tile{tile.kvHead, sequence, 0, a.group, 0});  // as many tokens as sequences: one token of padding each
  if (!d.all && !isDecode(queryLen, a.group)) return;
  const int blocks = total <= perRound ? d.splits : 1;  // a long query in a launch for decode: one block does it all
  if (split >= blocks) return;
  for (tile.first = tileIndex * d.tileRows; tile.first < total; tile.first += perRound) {
    tile.rows = min(d.tileRows, total - tile.first);
    if (seqLen <= 0) {
      if (split == 0) zeroRows<T, D>(a, tile);
      continue;
    }
    const int context = seqLen - queryLen, minPos = context + tile.first / a.group, maxPos = context + (tile.first + tile.rows - 1) / a.group;
    const int lo = a.window > 0 ? max(0, minPos - a.window + 1) : 0, hi = maxPos + 1, base = lo / kPageTokens * kPageTokens;
    const int leaf = leafTokens(hi - base), leaves = (hi - base + leaf - 1) / leaf, used = min(blocks, leaves);
    if (split >= used) return;
    const int64_t headStride = int64_t{kPageTokens} * D, valueOffset_ = a.numKvHeads * headStride;
    const TileKeys<T> keys{static_cast<const T*>(a.cache) + tile.kvHead * headStride, a.blockTable + a.seqRows[sequence] * a.blockTableStride,
                           2 * valueOffset_, valueOffset_, lo, hi, minPos, maxPos, a.window};
    const DecodeBlock<T, D, kTiles> block{a, d, tile, reinterpret_cast<float*>(sharedMemory), warp, lane};
    block.attend(keys, context, base, leaf, leaves, blocks);
    if (used == 1 || !block.arriveLast(used)) continue;
    for (int row = warp; row < tile.rows; row += kDecodeWarps)
      combineRow<T, D>(a, tile, block.partial(0, row), int64_t{d.tileRows} * (D + 2), row, used, lane);
  }
}

template <class T, int D, int kTiles>
void launchDecode(const Arguments& a, const DecodeLaunch& d, cudaStream_t s) {
  const auto kernel = decodeKernel<T, D, kTiles>;
  const int bytes = static_cast<int>(decodeSharedBytes(D, d.tileRows));
  if (bytes > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const dim3 grid(static_cast<unsigned>(a.numKvHeads * d.tiles), static_cast<unsigned>(a.numSeqs), static_cast<unsigned>(d.splits));
  kernel<<<grid, kDecodeWarps * 32, static_cast<size_t>(bytes), s>>>(a, d);
}

template <class T>
void dispatchDecode(const Arguments& a, const DecodeLaunch& d, cudaStream_t s) {
  const bool two = d.tileRows > 8;
  switch (a.headDim) {
    case 64: return two ? launchDecode<T, 64, 2>(a, d, s) : launchDecode<T, 64, 1>(a, d, s);
    case 80: return two ? launchDecode<T, 80, 2>(a, d, s) : launchDecode<T, 80, 1>(a, d, s);
    case 96: return two ? launchDecode<T, 96, 2>(a, d, s) : launchDecode<T, 96, 1>(a, d, s);
    case 128: return two ? launchDecode<T, 128, 2>(a, d, s) : launchDecode<T, 128, 1>(a, d, s);
    default: return launchDecode<T, 256, 1>(a, d, s);
  }
}

}  // namespace kvasir::cuda::attention
