// Exact top-k and top-p by radix selection, without sorting. A token's value is v = (logit - max) * scale <= 0; its key is the bit
// pattern of -v, so that a smaller key is a more probable token and equal values have equal keys.
#pragma once

#include "cuda/sampling_row.cuh"

namespace kvasir::cuda::sampling {

constexpr uint32_t kBins = 4096;
constexpr uint32_t kBinsPerThread = kBins / kThreads;
// The first histogram is linear: 128 bins per unit of -v, which spreads the logits of a model over hundreds of bins. What lies
// beyond 32 weighs nothing in fixed point, and cannot be drawn: noise spans less than 26.
constexpr float kLinearScale = 128, kLinearEnd = 32;
constexpr uint32_t kKeyOfInfinity = 0x7f800000;

struct Row {
  const float* x;
  uint32_t n;
  float max, scale;

  __device__ __forceinline__ float value(float logit) const { return __fmul_rn(__fsub_rn(logit, max), scale); }
  __device__ __forceinline__ uint32_t key(float logit) const { return __float_as_uint(value(logit)) & 0x7fffffffu; }
};

// 64-bit sums as two 32-bit words: shared memory adds 32 bits natively. The carry makes the sum exact in any order.
struct Histogram {
  uint32_t low[kBins], high[kBins];

  template <bool kWide>
  __device__ __forceinline__ void add(uint32_t bin, Word weight) {
    const uint32_t part = static_cast<uint32_t>(weight);
    if constexpr (!kWide) {
      atomicAdd(&low[bin], part);
    } else {
      const uint32_t before = atomicAdd(&low[bin], part);
      const uint32_t upper = static_cast<uint32_t>(weight >> 32) + (before + part < before ? 1u : 0u);
      if (upper) atomicAdd(&high[bin], upper);
    }
  }
  __device__ __forceinline__ Word sum(uint32_t bin) const { return static_cast<Word>(high[bin]) << 32 | low[bin]; }
};

// The block's. Not handed to functions that are not inlined: its address must stay known to be in shared memory.
__device__ __forceinline__ Histogram& sharedHistogram() {
  __shared__ Histogram histogram;
  return histogram;
}

// Two ways to weigh a token: top-k counts it, top-p takes its mass. A token stays while the weight of the more probable ones is less
// than target(); atLeast() is not more than the weight of a token with this key.
struct CountWeight {
  static constexpr bool kWide = false;
  Word k;

  __device__ Word of(uint32_t) const { return 1; }
  __device__ Word atLeast(uint32_t) const { return 1; }
  __device__ Word target(Word) const { return k; }
};
struct MassWeight {
  static constexpr bool kWide = true;
  double topP;
  float one;

  __device__ Word of(uint32_t key) const { return fixedExp(-__uint_as_float(key), one); }
  __device__ Word atLeast(uint32_t key) const {
    const Word weight = of(key);
    return weight - weight / 1024;
  }
  __device__ Word target(Word total) const {
    const double mass = ceil(topP * static_cast<double>(total));
    return mass > 1 ? static_cast<Word>(mass) : 1;  // the most probable always stay
  }
};

// The keys under consideration, [low, high], and the weight of all keys below.
struct KeyRange {
  uint32_t low, high;
  Word before;
};

struct Place {
  uint32_t bin;
  Word before, inside;
};

// Adds the row's keys of a range to the cleared histogram: linear bins, or `shift` low bits of key - range.low per bin.
template <class W>
__device__ __forceinline__ void fillHistogram(const Row& row, const KeyRange& range, bool linear, uint32_t shift, const W& weight, Histogram& histogram) {
  for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) histogram.low[i] = histogram.high[i] = 0;
  __syncthreads();
  forRow(row.x, row.n, [&](float x, uint32_t) {
    const uint32_t key = row.key(x);
    if (key < range.low || key > range.high) return;
    const float distance = __uint_as_float(key);
    if (linear && !(distance < kLinearEnd)) return;
    const uint32_t bin = linear ? static_cast<uint32_t>(distance * kLinearScale) : (key - range.low) >> shift;
    histogram.add<W::kWide>(bin, weight.of(key));
  });
  __syncthreads();
}

// The bin in which the running sum reaches `need` (1 <= need <= the sum of all bins). `before` and `own` are sums of this thread's bins.
__device__ __forceinline__ Place findBin(const Histogram& histogram, Word need, Word before, Word own) {
  __shared__ Place place;
  if (before < need && need <= before + own) {
    uint32_t bin = threadIdx.x * kBinsPerThread;
    while (before + histogram.sum(bin) < need) before += histogram.sum(bin++);
    place = {bin, before, histogram.sum(bin)};
  }
  __syncthreads();
  const Place found = place;
  __syncthreads();  // place and histogram may be used again
  return found;
}

// The largest key that stays, among keys up to `bound`: all tokens with keys up to the result stay, no others. Usually one pass over the
// row; where the last bin holds several tokens that differ, it is split again, up to the exact key.
template <class W>
__device__ __noinline__ uint32_t lastKey(const Row row, uint32_t bound, const W weight) {
  Histogram& histogram = sharedHistogram();
  KeyRange range{0, bound, 0};
  Word target = 0;
  for (bool linear = true;; linear = false) {
    const int bits = 32 - __clz(static_cast<int>(range.high - range.low));
    const uint32_t shift = bits > 12 ? static_cast<uint32_t>(bits) - 12 : 0;
    fillHistogram(row, range, linear, shift, weight, histogram);
    Word own = 0, total = 0;
#pragma unroll
    for (uint32_t j = 0; j < kBinsPerThread; ++j) own += histogram.sum(threadIdx.x * kBinsPerThread + j);
    const Word before = blockExclusiveSum(own, total);
    if (linear) {
      target = weight.target(total);
      if (total < target) return bound;
    }
    const Place place = findBin(histogram, target - range.before, before, own);
    const float edge = static_cast<float>(place.bin);
    const uint32_t low = linear ? __float_as_uint(edge / kLinearScale) : range.low + (place.bin << shift);
    const uint32_t next = linear ? __float_as_uint((edge + 1) / kLinearScale) : low + (1u << shift);
    range = {low, min(range.high, next - 1), range.before + place.before};
    if (range.low >= range.high || range.before + place.inside - weight.atLeast(range.high) < target) return range.high;
  }
}

}  // namespace kvasir::cuda::sampling
