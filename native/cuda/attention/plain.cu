#include <cuda_runtime.h>

#include "core/error.h"
#include "cuda/attention/plan.h"
#include "cuda/attention/softmax.cuh"
#include "cuda/cache_layout.cuh"
#include "cuda/convert.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda::attention {

namespace {

constexpr int kWarps = 4;

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
template <class T>
__device__ __forceinline__ float product(const float* query, const T* key, int headDim) {
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < headDim / 2; ++i) {
    const Pair<T> k = reinterpret_cast<const Pair<T>*>(key)[i];
    sum = fmaf(query[2 * i], toFloatDevice(k.x), sum);
    sum = fmaf(query[2 * i + 1], toFloatDevice(k.y), sum);
  }
  return sum;
}

// One warp per (token, head), for any type and head size, and the reference of the others. For 32 keys at a time a lane computes the
// score of one key, then all lanes add the weighted values, two dimensions (and 64 further) each. Stages of keys start at multiples of
// 32, so a row's result depends on its own keys only.
template <class T, int kPairs>
__global__ void __launch_bounds__(kWarps * 32) plainKernel(const Arguments a, bool prefillOnly) {
  __shared__ float queries[kWarps][kPairs * 64];
  const int lane = threadIdx.x % 32, headDim = a.headDim;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
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
  const T* cache = static_cast<const T*>(a.cache) + rowOffset;
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
      const T* value = cache + values + __shfl_sync(0xffffffffu, row, k);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int d = 2 * lane + 64 * i;
        if (d >= headDim) continue;
        const Pair<T> v = *reinterpret_cast<const Pair<T>*>(value + d);
        o[i].x = fmaf(weight, toFloatDevice(v.x), o[i].x);
        o[i].y = fmaf(weight, toFloatDevice(v.y), o[i].y);
      }
    }
  }
  const float factor = hi > 0 ? finalFactor(m, l, a.sinks ? a.sinks + head : nullptr) : 0.0f;
  T* out = static_cast<T*>(a.out) + index * headDim;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = 2 * lane + 64 * i;
    if (d < headDim) *reinterpret_cast<Pair<T>*>(out + d) = Pair<T>{convert<T>(o[i].x * factor), convert<T>(o[i].y * factor)};
  }
}

}  // namespace

void plain(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s) {
  if (a.headDim > kPlainHeadDim) fail(kUnsupportedError, "pagedAttention: headDim is %d, expected at most %d on CUDA", a.headDim, kPlainHeadDim);
  const unsigned blocks = static_cast<unsigned>((int64_t{a.numTokens} * a.numHeads + kWarps - 1) / kWarps);
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const auto kernel = a.headDim <= 64 ? plainKernel<T, 1> : a.headDim <= 128 ? plainKernel<T, 2> : a.headDim <= 256 ? plainKernel<T, 4> : plainKernel<T, 8>;
    kernel<<<blocks, kWarps * 32, 0, s>>>(a, prefillOnly);
  });
}

}  // namespace kvasir::cuda::attention
