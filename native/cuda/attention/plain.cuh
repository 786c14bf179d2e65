// Attention for any type and head size, without tensor cores: the reference of the other kernels.
#pragma once

#include "core/error.h"
#include "cuda/attention/fp8.cuh"
#include "cuda/attention/plan.h"
#include "cuda/attention/softmax.cuh"
#include "cuda/cache_layout.cuh"
#include "cuda/convert.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda::attention {

inline constexpr int kPlainWarps = 4;

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T x, y;
};

// The sequence of a token; numSeqs for padding. Sequences without tokens have none.
__device__ __forceinline__ int sequenceOf(const Arguments& a, int token) {
  int low = 0, high = a.numSeqs;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (a.queryStarts[middle + 1] > token) high = middle;
    else low = middle + 1;
  }
  return low;
}

// The logit of a query and a key, in base 2, from their product.
__device__ __forceinline__ float plainLogit(const Arguments& a, float product, float slope, int distance) {
  const float x = product * a.scale, capped = a.softCap > 0 ? a.softCap * tanhf(x / a.softCap) : x;
  return kLog2e * fmaf(slope, static_cast<float>(distance), capped);
}

// Product of a query (shared memory) and one key row.
template <class C>
__device__ __forceinline__ float product(const float* query, const C* key, int headDim) {
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < headDim / 2; ++i) {
    const Pair<C> k = reinterpret_cast<const Pair<C>*>(key)[i];
    sum = fmaf(query[2 * i], toFloatDevice(k.x), sum);
    sum = fmaf(query[2 * i + 1], toFloatDevice(k.y), sum);
  }
  return sum;
}

// One warp per (token, head). For 32 keys at a time a lane computes the score of one key, then all lanes add the weighted values, two
// dimensions (and 64 further) each. Stages of keys start at multiples of 32, so a row's result depends on its own keys only.
// T: type of q and out; C: of the cache.
template <class T, class C, int kPairs>
__global__ void __launch_bounds__(kPlainWarps * 32) plainKernel(const Arguments a, bool prefillOnly) {
  __shared__ float queries[kPlainWarps][kPairs * 64];
  const int lane = threadIdx.x % 32, headDim = a.headDim;
  const int64_t index = int64_t{blockIdx.x} * kPlainWarps + threadIdx.x / 32;
  if (index >= int64_t{a.numTokens} * a.numHeads) return;
  const int token = static_cast<int>(index / a.numHeads), head = static_cast<int>(index % a.numHeads);
  const int sequence = sequenceOf(a, token);
  const bool padding = sequence == a.numSeqs;
  const int start = a.queryStarts[sequence], queryLen = padding ? 0 : a.queryStarts[sequence + 1] - start;
  if (prefillOnly && !padding && isDecode(queryLen, a.group)) return;
  const int seqLen = padding ? 0 : a.seqLens[sequence];
  float* query = queries[threadIdx.x / 32];
  const T* q = static_cast<const T*>(a.q) + token * a.qTokenStride + head * a.qHeadStride;
  for (int i = lane; i < headDim; i += 32) query[i] = toFloatDevice(q[i]);
  __syncwarp();

  const int position = seqLen - queryLen + token - start, hi = seqLen > 0 ? position + 1 : 0;
  const int lo = a.window > 0 ? max(0, hi - a.window) : 0;
  const int64_t rowOffset = int64_t{head / a.group} * kPageTokens * headDim, values = valueOffset(a.numKvHeads, headDim);
  const C* cache = static_cast<const C*>(a.cache) + rowOffset;
  const int32_t* table = padding ? nullptr : a.blockTable + a.seqRows[sequence] * a.blockTableStride;
  const float slope = a.slopes ? a.slopes[head] : 0.0f;
  float m = negativeInfinity(), l = 0;
  float2 o[kPairs] = {};
  for (int first = lo / 32 * 32; first < hi; first += 32) {
    const int key = first + lane;
    const bool attended = key >= lo && key < hi;
    const int64_t row = attended ? table[key / kPageTokens] * 2 * values + key % kPageTokens * headDim : 0;
    const float s = attended ? plainLogit(a, product(query, cache + row, headDim), slope, key - position) : negativeInfinity();
    const float top = fmaxf(m, warpMax(s)), base = top == negativeInfinity() ? 0.0f : top;
    const float alpha = exp2f(m - base), p = exp2f(s - base);
    m = top;
    l = l * alpha + warpSum(p);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) o[i].x *= alpha, o[i].y *= alpha;
    const int end = min(32, hi - first);
#pragma unroll 4
    for (int k = max(0, lo - first); k < end; ++k) {
      const float weight = __shfl_sync(0xffffffffu, p, k);
      const C* value = cache + values + __shfl_sync(0xffffffffu, row, k);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int d = 2 * lane + 64 * i;
        if (d >= headDim) continue;
        const Pair<C> v = *reinterpret_cast<const Pair<C>*>(value + d);
        o[i].x = fmaf(weight, toFloatDevice(v.x), o[i].x);
        o[i].y = fmaf(weight, toFloatDevice(v.y), o[i].y);
      }
    }
  }
  const float factor = hi > 0 ? finalFactor(m, l, a.sinks ? a.sinks + head : nullptr, a.valueScale) : 0.0f;
  T* out = static_cast<T*>(a.out) + index * headDim;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = 2 * lane + 64 * i;
    if (d < headDim) *reinterpret_cast<Pair<T>*>(out + d) = Pair<T>{convert<T>(o[i].x * factor), convert<T>(o[i].y * factor)};
  }
}

template <class T, class C>
void launchPlain(const Arguments& a, bool prefillOnly, cudaStream_t s) {
  if (a.headDim > kPlainHeadDim) fail(kUnsupportedError, "pagedAttention: headDim is %d, expected at most %d on CUDA", a.headDim, kPlainHeadDim);
  const unsigned blocks = static_cast<unsigned>((int64_t{a.numTokens} * a.numHeads + kPlainWarps - 1) / kPlainWarps);
  const auto kernel = a.headDim <= 64    ? plainKernel<T, C, 1>
                      : a.headDim <= 128 ? plainKernel<T, C, 2>
                      : a.headDim <= 256 ? plainKernel<T, C, 4>
                                         : plainKernel<T, C, 8>;
  kernel<<<blocks, kPlainWarps * 32, 0, s>>>(a, prefillOnly);
}

}  // namespace kvasir::cuda::attention
