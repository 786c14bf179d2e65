// Prefill attention: a tile of 128 query rows against the keys it attends (FlashAttention-2; Dao, 2023).
//
// Grid (tile, kv head), kWarps warps with kM x 16 rows each. A row is one token of one head of the kv head's group; rows of a sequence are
// counted as token * group + head. Keys and values pass through shared memory in two stages of 64 keys (4 pages), copied in the background
// by the warp that owns the page; weights go from the score product's result registers straight into the next product. What a row's
// result is depends on no other row, nor on where its tile begins: stages start at multiples of 64 keys of the sequence.
// In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/plan.h"
#include "cuda/attention/softmax.cuh"
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

// A warp's share of copying stages: page `slot` of the four, or half of it.
template <class T, int D, int kWarps>
struct StageLoader {
  static constexpr int kChunks = D / 8, kWarpsPerPage = kWarps / 4, kPerLane = 16 * kChunks / (32 * kWarpsPerPage);
  const T* cache;  // the kv head's page of block 0
  const int32_t* table;
  int64_t blockStride, valueOffset;
  int lo, hi, slot, firstChunk;  // lo, hi: keys that some row of the tile attends
  int32_t block;                 // of the next stage

  __device__ __forceinline__ void fetch(int stage) {
    const int page = stage * 4 + slot;
    if (page * kPageTokens < hi && (page + 1) * kPageTokens > lo) block = table[page];
  }
  // Copies stage `stage`, whose block is known; keys outside [lo, hi) become zero and are not read.
  __device__ __forceinline__ void copy(int stage, uint32_t keys, uint32_t values) const {
    const T* page = cache + block * blockStride;
    const int firstKey = stage * kStageKeys + slot * kPageTokens;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int chunk = firstChunk + 32 * i, row = chunk / kChunks, key = firstKey + row;
      const bool valid = key >= lo && key < hi;
      const T* from = valid ? page + chunk * 8 : cache;
      const uint32_t offset = Swizzle<D>::offset(slot * kPageTokens + row, chunk % kChunks);
      copyAsync(keys + offset, from, valid);
      copyAsync(values + offset, valid ? from + valueOffset : cache, valid);
    }
  }
};

// kM x 16 rows of one warp.
template <class T, int D, int kM>
struct PrefillWarp {
  float o[kM][D / 8][4];
  float m[kM][2], l[kM][2];  // of rows g and g + 8; m in units of the scores, l of this lane's keys only
  int low, last;                   // the warp's first row and the tile's last, counted in the sequence
  int minPos, maxPos;

  __device__ __forceinline__ void begin(const Arguments& a, const PrefillTile& tile, int context, int firstRow) {
    last = tile.first + tile.rows - 1;
    low = tile.first + firstRow;
    minPos = context + min(low, last) / a.group;
    maxPos = context + min(low + kM * 16 - 1, last) / a.group;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) m[i][c] = negativeInfinity(), l[i][c] = 0;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][n][c] = 0;
    }
  }
  // Rows past the tile count as its last. Worked out where it is needed, because registers are short.
  __device__ __forceinline__ int rowOf(int i, int c, int g) const { return min(low + i * 16 + c * 8 + g, last); }
  __device__ __forceinline__ int positionOf(const Arguments& a, int row) const { return maxPos + row / a.group - min(low + kM * 16 - 1, last) / a.group; }

  // s[i][n]: (row g; keys 8n + 2t, 8n + 2t + 1), (row g + 8; same keys).
  __device__ __forceinline__ void scores(float (&s)[kM][8][4], uint32_t queries, uint32_t keys, int lane) {
    const int swizzle = Swizzle<D>::bits(lane % 8);
    const uint32_t qRow = queries + (lane % 16) * (D * 2), kRow = keys + (lane % 8 + lane / 16 * 8) * (D * 2);
    const int qChunk = lane / 16 ^ swizzle, kChunk = (lane / 8 & 1) ^ swizzle;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) s[i][n][c] = 0;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t q[kM][4];
#pragma unroll
      for (int i = 0; i < kM; ++i) loadMatrices(q[i], qRow + i * 16 * (D * 2) + ((qChunk ^ 2 * step) << 4));
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        uint32_t k[4];
        loadMatrices(k, kRow + n * 8 * (D * 2) + ((kChunk ^ 2 * step) << 4));
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          mma<T>(s[i][n], q[i][0], q[i][1], q[i][2], q[i][3], k[0], k[1]);
          mma<T>(s[i][n + 1], q[i][0], q[i][1], q[i][2], q[i][3], k[2], k[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void applyHooks(float (&s)[kM][8][4], const Arguments& a, int kvHead, int firstKey, int lane) const {
    const Logits logit(a);
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int row = rowOf(i, c, lane / 4), first = firstKey + lane % 4 * 2 - positionOf(a, row);
        const float slope = a.slopes ? a.slopes[kvHead * a.group + row % a.group] * kLog2e : 0.0f;
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) s[i][n][2 * c + e] = logit(s[i][n][2 * c + e], slope, first + 8 * n + e);
      }
  }

  __device__ __forceinline__ void mask(float (&s)[kM][8][4], const Arguments& a, int firstKey, int lane) const {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int first = firstKey + lane % 4 * 2 - positionOf(a, rowOf(i, c, lane / 4));
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int distance = first + 8 * n + e;
            if (distance > 0 || (a.window > 0 && distance <= -a.window)) s[i][n][2 * c + e] = negativeInfinity();
          }
      }
  }

  // Turns scores into weights exp2(unit * (score - maximum)) and brings o and l to the new maximum.
  __device__ __forceinline__ void weights(float (&s)[kM][8][4], float unit) {
    float alpha[kM][2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float top = m[i][c];
#pragma unroll
        for (int n = 0; n < 8; ++n) top = fmaxf(top, fmaxf(s[i][n][2 * c], s[i][n][2 * c + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float base = top == negativeInfinity() ? 0.0f : __fmul_rn(top, unit);
        alpha[i][c] = exp2Fast(__fmul_rn(m[i][c], unit) - base);  // exactly 1 if the maximum stays
        moved |= alpha[i][c] != 1.0f;
        m[i][c] = top;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            s[i][n][2 * c + e] = exp2Fast(fmaf(s[i][n][2 * c + e], unit, -base));
            sum += s[i][n][2 * c + e];
          }
        l[i][c] = l[i][c] * alpha[i][c] + sum;
      }
    if (!__any_sync(0xffffffffu, moved)) return;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][n][c] *= alpha[i][c / 2];
  }

  __device__ __forceinline__ void addValues(const float (&s)[kM][8][4], uint32_t values, int lane) {
    const int chunk = lane / 16 ^ Swizzle<D>::bits(lane % 8);
    const uint32_t row = values + (lane % 16) * (D * 2);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t p[kM][4];
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        p[i][0] = packPair<T>(s[i][2 * k][0], s[i][2 * k][1]);
        p[i][1] = packPair<T>(s[i][2 * k][2], s[i][2 * k][3]);
        p[i][2] = packPair<T>(s[i][2 * k + 1][0], s[i][2 * k + 1][1]);
        p[i][3] = packPair<T>(s[i][2 * k + 1][2], s[i][2 * k + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < D / 8; n += 2) {
        uint32_t v[4];
        loadMatricesTransposed(v, row + k * 16 * (D * 2) + ((chunk ^ n) << 4));
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          mma<T>(o[i][n], p[i][0], p[i][1], p[i][2], p[i][3], v[0], v[1]);
          mma<T>(o[i][n + 1], p[i][0], p[i][1], p[i][2], p[i][3], v[2], v[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void attend(const Arguments& a, int kvHead, int stage, uint32_t queries, uint32_t keys, uint32_t values, bool hooks,
                                         float unit, int lane) {
    const int firstKey = stage * kStageKeys, lastKey = firstKey + kStageKeys - 1;
    if (firstKey > maxPos || (a.window > 0 && lastKey <= minPos - a.window)) return;  // nothing that these rows attend
    float s[kM][8][4];
    scores(s, queries, keys, lane);
    if (hooks) applyHooks(s, a, kvHead, firstKey, lane);
    if (lastKey > minPos || (a.window > 0 && firstKey <= maxPos - a.window)) mask(s, a, firstKey, lane);
    weights(s, unit);
    addValues(s, values, lane);
  }

  // Writes the rows by way of the warp's own queries, which are not needed any more.
  __device__ __forceinline__ void finish(const Arguments& a, const PrefillTile& tile, char* memory, int firstRow, float unit, int lane) {
    constexpr int kChunks = D / 8;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float sum = l[i][c];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float factor = finalFactor(m[i][c] * unit, sum, a.sinks ? a.sinks + tile.kvHead * a.group + rowOf(i, c, lane / 4) % a.group : nullptr);
        const int row = firstRow + i * 16 + c * 8 + lane / 4;
#pragma unroll
        for (int n = 0; n < kChunks; ++n)
          *reinterpret_cast<uint32_t*>(memory + Swizzle<D>::offset(row, n) + lane % 4 * 4) = packPair<T>(o[i][n][2 * c] * factor, o[i][n][2 * c + 1] * factor);
      }
    __syncwarp();
    for (int i = lane; i < kM * 16 * kChunks; i += 32) {
      const int row = firstRow + i / kChunks, chunk = i % kChunks;
      if (row < tile.rows)
        reinterpret_cast<uint4*>(prefillOut<T, D>(a, tile, row))[chunk] = *reinterpret_cast<const uint4*>(memory + Swizzle<D>::offset(row, chunk));
    }
  }
};

template <class T, int D, int kM, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kM == 2 ? 2 : 1) prefillKernel(const Arguments a) {
  static_assert(kM * kWarps * 16 == kTileRows);
  extern __shared__ uint4 sharedMemory[];
  PrefillTile tile;
  tile.kvHead = blockIdx.y;
  if (!findTile(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), tile)) return;  // the last tiles of a sequence attend most: they start first
  const int seqLen = tile.sequence < a.numSeqs ? a.seqLens[tile.sequence] : 0;
  if (seqLen <= 0) return zeroTile<T, D, kWarps * 32>(a, tile);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, firstRow = warp * kM * 16;
  const int context = seqLen - tile.queryLen;
  const int lo = a.window > 0 ? max(0, context + tile.first / a.group - a.window + 1) : 0;
  const int hi = context + (tile.first + tile.rows - 1) / a.group + 1;
  constexpr uint32_t kStageBytes = kStageKeys * D * 2, kQueryBytes = kTileRows * D * 2;
  char* memory = reinterpret_cast<char*>(sharedMemory);
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory)), stages = shared + kQueryBytes;

  using Loader = StageLoader<T, D, kWarps>;
  const int64_t headStride = int64_t{kPageTokens} * D, valueOffset = a.numKvHeads * headStride;
  Loader loader{static_cast<const T*>(a.cache) + tile.kvHead * headStride, a.blockTable + a.seqRows[tile.sequence] * a.blockTableStride, 2 * valueOffset, valueOffset,
                lo, hi, warp / Loader::kWarpsPerPage, warp % Loader::kWarpsPerPage * 32 * Loader::kPerLane + lane, 0};
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
    if (!idle) rows.attend(a, tile.kvHead, stage, shared + firstRow * (D * 2), current, current + 2 * kStageBytes, hooks, unit, lane);
  }
  if (!idle) rows.finish(a, tile, memory, firstRow, unit, lane);
}

template <class T, int D, int kM, int kWarps>
void launchPrefill(const Arguments& a, cudaStream_t s) {
  const auto kernel = prefillKernel<T, D, kM, kWarps>;
  const int bytes = static_cast<int>(prefillSharedBytes(D));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t tiles = prefillTile(int64_t{a.numTokens} * a.group, a.numSeqs) + 1;
  kernel<<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(a.numKvHeads)), kWarps * 32, static_cast<size_t>(bytes), s>>>(a);
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
