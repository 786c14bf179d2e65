// Gumbel-max over the tokens of a row that are left, with the random numbers of the CPU backend (cpu/sampling_loops.inc).
#pragma once

#include "cuda/sampling_select.cuh"

namespace kvasir::cuda::sampling {

struct DrawKey {
  uint32_t seedLow, seedHigh, position;
};

// Philox4x32-10 (Salmon et al., SC 2011) of counter (counter, position, 0, 0). The token with id = 64 a + 16 b + c takes word b of
// counter 16 a + c.
__device__ __forceinline__ uint4 philox(uint32_t counter, DrawKey key) {
  uint32_t c0 = counter, c1 = key.position, c2 = 0, c3 = 0, k0 = key.seedLow, k1 = key.seedHigh;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Word a = static_cast<Word>(c0) * 0xD2511F53u, b = static_cast<Word>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

__device__ __forceinline__ uint32_t wordOf(const uint4& words, uint32_t index) {
  return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

__device__ __forceinline__ float uniform(uint32_t bits) {
  return fminf(fmaf(__uint2float_rn(bits), 0x1p-32f, 0x1p-33f), 0x1.fffffep-1f);
}

// value + noise, noise = -log(-log(1 - v)) of a uniform v: between -2.82 and 22.88.
__device__ __forceinline__ float scoreOf(float value, uint32_t bits) { return value - logf(-log1pf(-uniform(bits))); }
constexpr float kScoreFloor = -3.0f;  // the token of the maximum scores more
constexpr float kNoiseMax = 22.9f;

// Whether the score may reach `reach`: noise is below -log(v), so v must be below exp(value - reach). The slack covers rounding.
__device__ __forceinline__ bool hopeful(float value, uint32_t bits, float reach) {
  return !(uniform(bits) > __expf(value - reach + 1e-3f));
}

// The values of tokens id to id + 3; -infinity behind the end of the row.
__device__ __forceinline__ void loadValues(const Row& row, bool aligned, uint32_t id, float out[4]) {
  if (aligned && id + 4 <= row.n) {
    const float4 x = *reinterpret_cast<const float4*>(row.x + id);
    out[0] = row.value(x.x);
    out[1] = row.value(x.y);
    out[2] = row.value(x.z);
    out[3] = row.value(x.w);
    return;
  }
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) out[j] = id + j < row.n ? row.value(row.x[id + j]) : -INFINITY;
}

// The best of the threads of a warp, as a bound: scores are above -4, where positive floats order like their bits.
__device__ __forceinline__ float warpReach(float score) {
  return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(score + 4.0f))) - 4.0f;
}

// Which of the 16 tokens of a lane (bit 4 * word + j) deserve an exact score. counter: of token j = 0.
__device__ __forceinline__ uint32_t hopefulTokens(const float v[4][4], float lowest, float reach, uint32_t counter, DrawKey key) {
  const float cut = fmaxf(lowest, reach - kNoiseMax);
  uint32_t tokens = 0;
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    if (!(v[0][j] >= cut || v[1][j] >= cut || v[2][j] >= cut || v[3][j] >= cut)) continue;
    const uint4 words = philox(counter + j, key);
#pragma unroll
    for (uint32_t word = 0; word < 4; ++word)
      if (v[word][j] >= cut && hopeful(v[word][j], wordOf(words, word), reach)) tokens |= 1u << (4 * word + j);
  }
  return tokens;
}

// The token with the largest score among those with keys up to `lastKey`, the lowest id on ties. A warp takes 512 tokens at a time;
// four lanes share a block of 64, each with 4 counters, so that a random number is computed for 4 tokens at once.
__device__ __noinline__ uint32_t draw(const Row row, uint32_t lastKey, DrawKey key) {
  const bool aligned = reinterpret_cast<uintptr_t>(row.x) % 16 == 0;
  const float lowest = -__uint_as_float(lastKey);
  const uint32_t lane = threadIdx.x % 32, blocks = row.n / 64 + (row.n % 64 ? 1 : 0);
  float best = kScoreFloor, reach = kScoreFloor;
  uint32_t bestId = UINT32_MAX;
  for (uint32_t first = threadIdx.x / 32 * 8; first < blocks; first += kWarps * 8) {
    const uint32_t start = (first + lane / 4) * 64 + lane % 4 * 4;
    float v[4][4];
#pragma unroll
    for (uint32_t word = 0; word < 4; ++word) loadValues(row, aligned, start + 16 * word, v[word]);
    uint32_t tokens = hopefulTokens(v, lowest, reach, (first + lane / 4) * 16 + lane % 4 * 4, key);
    for (; tokens; tokens &= tokens - 1) {  // few: everything is computed again, from the id
      const uint32_t bit = static_cast<uint32_t>(__ffs(static_cast<int>(tokens)) - 1), id = start + 16 * (bit / 4) + bit % 4;
      const uint4 words = philox(id / 64 * 16 + id % 16, key);
      const float score = scoreOf(row.value(row.x[id]), wordOf(words, bit / 4));
      if (score > best || (score == best && id < bestId)) {
        best = score;
        bestId = id;
      }
    }
    __syncwarp();
    reach = fmaxf(reach, warpReach(best));
  }
  return rankId(blockReduce(rankWord(best, bestId), Least()));
}

// The same over the tokens of pairs [row.n] of a value and a token id, whose values row has. For few of them.
__device__ __forceinline__ uint32_t drawPair(const Row& row, const int32_t* pairs, uint32_t lastKey, DrawKey key) {
  const float lowest = -__uint_as_float(lastKey);
  Word best = kNoRank;
  for (uint32_t i = threadIdx.x; i < row.n; i += kThreads) {
    const float value = row.value(row.x[i]);
    if (!(value >= lowest) || !(value > -INFINITY)) continue;  // lowest may be -infinity
    const uint32_t id = static_cast<uint32_t>(pairs[2 * i + 1]);
    const float score = scoreOf(value, wordOf(philox(id / 64 * 16 + id % 16, key), id / 16 % 4));
    if (score > kScoreFloor) best = min(best, rankWord(score, id));
  }
  return rankId(blockReduce(best, Least()));
}

}  // namespace kvasir::cuda::sampling
