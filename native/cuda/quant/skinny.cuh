// Quantized weights and few tokens: the time is that of reading the weight once.
#pragma once

#include "cuda/access.cuh"
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/quant/decode.cuh"

namespace kvasir::cuda {

namespace quant {

inline constexpr int kSkinnyThreads = 256, kSkinnyWarps = kSkinnyThreads / 32;
inline constexpr int kFeatures = 16;                      // of a warp: the rows of an mma
inline constexpr int kStepBytes = 64;                     // of each of them in one step: a chunk of 16 bytes for each lane of a quad
inline constexpr int kSlotBytes = kFeatures * kStepBytes;
inline constexpr int kSlots = 4;                          // steps that a warp has under way

// The scale and zero point of each of a lane's two rows for the parts of a step.
template <int kParts>
struct Factors {
  uint32_t scales[kParts][2];
  int zeros[kParts][2];
};

// Walks through the groups of a row, part by part.
struct GroupWalk {
  int group, done, per, last;  // per: parts of a group

  __device__ __forceinline__ GroupWalk(const QuantArgs& q, int firstPart, int partInputs)
      : per(q.groups == 1 ? 0x7fffffff : q.group / partInputs), last(q.groups - 1) {
    group = firstPart / per;
    done = firstPart % per;
  }
  template <bool kZeros, int kParts>
  __device__ __forceinline__ void load(const QuantArgs& q, const int64_t (&scaleRows)[2], const int64_t (&zeroRows)[2], Factors<kParts>& to) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int at = min(group, last);  // the last step may reach beyond the row
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        to.scales[i][r] = scaleBits(q, scaleRows[r] + at);
        to.zeros[i][r] = kZeros ? zeroAt(q, zeroRows[r] + at) : 0;
      }
      if (++done == per) done = 0, ++group;
    }
  }
};

// sums += the products of one word of codes of rows lane/4 and lane/4 + 8 with the same inputs of 8 tokens per tile. A lane's inputs of a
// word are consecutive; in which order mma sums over them does not matter as long as both operands have it.
template <class T, QuantKind kKind, int kTiles, class Inputs>
__device__ __forceinline__ void multiplyWords(float (&sums)[kTiles][4], uint32_t low, uint32_t high, int zeroLow, int zeroHigh, const Inputs (&x)[kTiles]) {
  if constexpr (kKind == QuantKind::Int4) {
    uint32_t a[4], b[4];
    decodeInt4<T>(low, int4Offset<T>(zeroLow), a);
    decodeInt4<T>(high, int4Offset<T>(zeroHigh), b);
    const uint32_t first[4] = {a[0], b[0], a[1], b[1]}, second[4] = {a[2], b[2], a[3], b[3]};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      tile::multiply<T>(sums[t], first, __byte_perm(x[t].x, x[t].z, 0x5410), __byte_perm(x[t].x, x[t].z, 0x7632));
      tile::multiply<T>(sums[t], second, __byte_perm(x[t].y, x[t].w, 0x5410), __byte_perm(x[t].y, x[t].w, 0x7632));
    }
  } else {
    uint32_t a[2], b[2];
    if constexpr (kKind == QuantKind::Int8) decodeInt8<T>(low, a), decodeInt8<T>(high, b);
    else decodeFp8<T>(low, a), decodeFp8<T>(high, b);
    const uint32_t left[4] = {a[0], b[0], a[1], b[1]};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) tile::multiply<T>(sums[t], left, x[t].x, x[t].y);
  }
}

// A warp computes 16 features of 8 * kTiles tokens from steps [part * stepsEach, ..) of k; `split` warps share the features. Operand A of
// mma are the codes, B the tokens. Per step a lane copies a chunk of rows lane/4 and lane/4 + 8 to the warp's own ring in shared memory,
// from where ldmatrix deals out words so that the four lanes of a quad hold consecutive ones: inputs of one group. kFine: groups are
// shorter than a step, and multiples of a quarter of it.
// Warps are added in order through shared memory. Grid: (tokens / (8 kTiles), features / (16 * 8 / split)).
template <class T, QuantKind kKind, bool kFine, int kTiles>
__global__ void __launch_bounds__(kSkinnyThreads, kTiles == 1 && !kFine ? 3 : 2) skinnyKernel(const QuantArgs q, int split, int stepsEach) {
  constexpr bool kInt4 = kKind == QuantKind::Int4;
  constexpr int kWord = kInt4 ? 8 : 4, kQuarter = 4 * kWord, kStep = 4 * kQuarter;  // inputs
  constexpr int kParts = kFine ? 4 : 1, kTokens = 8 * kTiles;
  using Inputs = std::conditional_t<kInt4, uint4, uint2>;  // of a word
  extern __shared__ __align__(128) unsigned char memory[];
  const GemmArgs& a = q.gemm;
  letNextStart();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, quad = lane % 4;
  const int k = static_cast<int>(a.k), first = warp % split * stepsEach, last = min(first + stepsEach, (k + kStep - 1) / kStep);
  const int64_t feature0 = (static_cast<int64_t>(blockIdx.y) * (kSkinnyWarps / split) + warp / split) * kFeatures;
  const int token0 = static_cast<int>(blockIdx.x) * kTokens;

  // Chunks are permuted by their row, so that 8 rows of one chunk lie in different banks.
  const uint32_t ring = static_cast<uint32_t>(__cvta_generic_to_shared(memory)) + static_cast<uint32_t>(warp * kSlots * kSlotBytes);
  const uint32_t to = ring + static_cast<uint32_t>(row * kStepBytes + ((quad ^ (row / 2)) & 3) * 16);
  const uint32_t from = ring + static_cast<uint32_t>(lane % 8 * kStepBytes + ((lane / 8 ^ (lane % 8 / 2)) & 3) * 16);
  const uint8_t* const codes = static_cast<const uint8_t*>(a.weight) + (feature0 + row) * a.weightStride + quad * 16;
  const bool have[2] = {feature0 + row < a.n, feature0 + row + 8 < a.n};
  const int rowBytes = static_cast<int>(a.weightStride);
  const auto fetch = [&](int step, int slot) {
    const int at = step * kStepBytes;
    const bool inside = step < last && at + quad * 16 < rowBytes;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      tile::copyAsync(to + static_cast<uint32_t>(slot * kSlotBytes + r * 8 * kStepBytes),
                      inside && have[r] ? static_cast<const void*>(codes + r * 8 * a.weightStride + at) : a.weight, inside && have[r]);
    tile::commitAsync();
  };
#pragma unroll
  for (int i = 0; i < kSlots; ++i) fetch(first + i, i);
  waitForPrevious();

  const int64_t rows[2] = {min(feature0 + row, a.n - 1), min(feature0 + row + 8, a.n - 1)};
  const int64_t scaleRows[2] = {scaleRow(q, rows[0]), scaleRow(q, rows[1])}, zeroRows[2] = {rows[0] * q.groups, rows[1] * q.groups};
  GroupWalk walk(q, first * kParts, kFine ? kQuarter : kStep);
  Factors<kParts> factors, next;
  walk.load<kInt4>(q, scaleRows, zeroRows, factors);
  const T* tokens[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const int token = token0 + t * 8 + row;
    tokens[t] = token < static_cast<int>(a.m) ? static_cast<const T*>(a.x) + token * a.xStride + quad * kWord : nullptr;
  }

  float sum[kTiles][4] = {};
#pragma unroll 1
  for (int step = first, slot = 0; step < last; ++step, slot = (slot + 1) % kSlots) {
    Inputs x[4][kTiles];
#pragma unroll
    for (int part = 0; part < 4; ++part)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int at = step * kStep + part * kQuarter;
        x[part][t] = tokens[t] && at < k ? *reinterpret_cast<const Inputs*>(tokens[t] + at) : Inputs{};
      }
    if (step + 1 < last) walk.load<kInt4>(q, scaleRows, zeroRows, next);
    tile::waitAsync<kSlots - 1>();
    __syncwarp();
    uint32_t low[4], high[4];
    tile::loadMatrices(low, from + static_cast<uint32_t>(slot * kSlotBytes));
    tile::loadMatrices(high, from + static_cast<uint32_t>(slot * kSlotBytes + 8 * kStepBytes));
    __syncwarp();  // all have read the slot that is filled again
    fetch(step + kSlots, slot);

    float group[kTiles][4] = {};
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      constexpr int kLastPart = 3;
      const int f = kFine ? part : 0;
      multiplyWords<T, kKind, kTiles>(group, low[part], high[part], factors.zeros[f][0], factors.zeros[f][1], x[part]);
      if (!kFine && part != kLastPart) continue;
      const float scale[2] = {scaleOf(q, factors.scales[f][0]), scaleOf(q, factors.scales[f][1])};
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum[t][e] = fmaf(scale[e / 2], group[t][e], sum[t][e]);
          group[t][e] = 0;
        }
    }
    factors = next;
  }
  tile::waitAsync<0>();
  __syncthreads();  // the rings are done with

  float* const partial = reinterpret_cast<float*>(memory);  // [warps][tokens][features]
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) partial[(warp * kTokens + t * 8 + quad * 2 + e % 2) * kFeatures + row + e / 2 * 8] = sum[t][e];
  __syncthreads();
  for (int i = threadIdx.x; i < kSkinnyWarps / split * kTokens * kFeatures; i += kSkinnyThreads) {
    const int local = i / (kTokens * kFeatures), token = i / kFeatures % kTokens;
    const int64_t feature = (static_cast<int64_t>(blockIdx.y) * (kSkinnyWarps / split) + local) * kFeatures + i % kFeatures;
    if (feature >= a.n || token0 + token >= a.m) continue;
    float total = 0;
    for (int part = 0; part < split; ++part) total += partial[((local * split + part) * kTokens + token) * kFeatures + i % kFeatures];
    storeAt<T>(a, token0 + token, feature, total + biasAt<T>(a, feature));
  }
}

// Warps that share features: enough to fill the device, with two steps each at least. Independent of the number of tokens.
constexpr int skinnySplit(int64_t n, int steps) {
  int split = kSkinnyWarps;
  while (split > 1 && (steps < 2 * split || n / kFeatures * split >= 8192)) split /= 2;
  return split;
}
static_assert(skinnySplit(4096, 32) == 8 && skinnySplit(28672, 32) == 4 && skinnySplit(128256, 32) == 1 && skinnySplit(4096, 1) == 1);

template <class T, QuantKind kKind>
void launchSkinny(const QuantArgs& q, cudaStream_t stream) {
  constexpr int kStep = 4 * static_cast<int>(chunkInputs(kKind));
  const GemmArgs& a = q.gemm;
  const bool fine = q.groups > 1 && q.group % kStep != 0, wide = a.m > 8;
  const int steps = static_cast<int>(ceilDiv(a.k, kStep)), split = skinnySplit(a.n, steps);
  const auto kernel = fine ? (wide ? skinnyKernel<T, kKind, true, 2> : skinnyKernel<T, kKind, true, 1>)
                           : (wide ? skinnyKernel<T, kKind, false, 2> : skinnyKernel<T, kKind, false, 1>);
  const dim3 grid(static_cast<unsigned>(ceilDiv(a.m, wide ? 16 : 8)), static_cast<unsigned>(ceilDiv(a.n, kFeatures * (kSkinnyWarps / split))));
  constexpr int bytes = kSkinnyWarps * kSlots * kSlotBytes;
  static_assert(bytes >= kSkinnyWarps * 16 * kFeatures * 4);
  launchChained({stream, a.overlap, bytes}, kernel, grid, kSkinnyThreads, q, split, static_cast<int>(ceilDiv(steps, split)));
}

}  // namespace quant

template <QuantKind kKind>
void launchQuantSkinny(const QuantArgs& args, DType dtype, cudaStream_t stream) {
  if (dtype == DType::Float16) return quant::launchSkinny<__half, kKind>(args, stream);
  quant::launchSkinny<__nv_bfloat16, kKind>(args, stream);
}

}  // namespace kvasir::cuda
