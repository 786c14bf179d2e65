// The running state of a softmax-weighted sum, in base 2, and how two such states merge.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/mma.cuh"

namespace kvasir::cuda::attention {

inline constexpr float kLog2e = 1.4426950408889634f;

// Turns the product of a query and a key into a logit in base 2: scale, soft cap, ALiBi.
struct Logits {
  float factor, cap;  // logit = factor * product, or cap * tanh(factor * product)

  __device__ explicit Logits(const Arguments& a)
      : factor(a.softCap > 0 ? a.scale / a.softCap : a.scale * kLog2e), cap(a.softCap > 0 ? a.softCap * kLog2e : 0.0f) {}
  // slope is in base 2, distance is key position - query position
  __device__ __forceinline__ float operator()(float product, float slope, int distance) const {
    const float x = product * factor;
    return fmaf(slope, static_cast<float>(distance), cap > 0 ? cap * tanhFast(x) : x);
  }
};

// One row's state in a warp: lane i holds values 2i + 64j and 2i + 64j + 1. An empty state has m = -inf, l = 0, o = 0.
template <int D>
struct RowState {
  static constexpr int kPairs = (D + 63) / 64;
  float m, l;
  float2 o[kPairs];

  __device__ __forceinline__ void clear() {
    m = negativeInfinity();
    l = 0;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) o[i] = make_float2(0, 0);
  }
  // Record: D values, m, l.
  __device__ __forceinline__ void load(const float* record, int lane) {
    m = record[D];
    l = record[D + 1];
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      if (2 * lane + 64 * i < D) o[i] = *reinterpret_cast<const float2*>(record + 2 * lane + 64 * i);
      else o[i] = make_float2(0, 0);
  }
  __device__ __forceinline__ void store(float* record, int lane) const {
    if (lane == 0) {
      record[D] = m;
      record[D + 1] = l;
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      if (2 * lane + 64 * i < D) *reinterpret_cast<float2*>(record + 2 * lane + 64 * i) = o[i];
  }
};

// Factors of two states whose sum is their merger; m and l become the merger's. Explicitly rounded, so that every place which merges the
// same states gets the same bits. Merging with an empty state changes nothing.
__device__ __forceinline__ float2 mergeFactors(float& m, float& l, float otherM, float otherL) {
  const float top = fmaxf(m, otherM), base = top == negativeInfinity() ? 0.0f : top;
  const float2 f = make_float2(exp2Fast(m - base), exp2Fast(otherM - base));
  l = __fmaf_rn(l, f.x, __fmul_rn(otherL, f.y));
  m = top;
  return f;
}

__device__ __forceinline__ float2 mergeValues(float2 a, float2 b, float2 f) {
  return make_float2(__fmaf_rn(a.x, f.x, __fmul_rn(b.x, f.y)), __fmaf_rn(a.y, f.x, __fmul_rn(b.y, f.y)));
}

template <int D>
__device__ __forceinline__ void merge(RowState<D>& a, const RowState<D>& b) {
  const float2 f = mergeFactors(a.m, a.l, b.m, b.l);
#pragma unroll
  for (int i = 0; i < RowState<D>::kPairs; ++i) a.o[i] = mergeValues(a.o[i], b.o[i], f);
}

// What a finished sum is multiplied with: valueScale / denominator, the sink (a logit without a value) included. A row that attends
// nothing becomes zero.
__device__ __forceinline__ float finalFactor(float m, float l, const float* sink, float valueScale) {
  float factor = 1.0f;
  if (sink) {
    const float s = *sink * kLog2e, top = fmaxf(m, s);
    factor = exp2Fast(m - top);
    l = __fmaf_rn(l, factor, exp2Fast(s - top));
  }
  return l == 0 ? 0.0f : factor / l * valueScale;
}

}  // namespace kvasir::cuda::attention
