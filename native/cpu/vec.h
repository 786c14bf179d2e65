// A vector of floats in the width of the translation unit's instruction set (gcc vector extensions), with conversions of the 16-bit
// floats, exp and log. For files that are compiled once per instruction set: everything is in an anonymous namespace and inlined, so
// that nothing here becomes a symbol that a unit with other flags could pick up.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef KVASIR_X86
#include <immintrin.h>
#endif

#include "core/dtype.h"

#define KVASIR_INLINE inline __attribute__((always_inline))

namespace kvasir::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F __attribute__((vector_size(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U __attribute__((vector_size(kLanes * 4)));
typedef uint16_t H __attribute__((vector_size(kLanes * 2)));

KVASIR_INLINE F broadcast(float x) { return F{} + x; }

KVASIR_INLINE F load(const float* p) {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
KVASIR_INLINE void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }

KVASIR_INLINE F load(const bf16* p) {
  H h;
  __builtin_memcpy(&h, p, sizeof h);
  return reinterpret_cast<F>(__builtin_convertvector(h, U) << 16);
}
KVASIR_INLINE void store(bf16* p, F v) {  // round to nearest even; NaN stays NaN
  const U bits = reinterpret_cast<U>(v);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U result = (bits & 0x7fffffffu) > 0x7f800000u ? ((bits >> 16) | 0x40u) : rounded;
  const H h = __builtin_convertvector(result, H);
  __builtin_memcpy(p, &h, sizeof h);
}

#if defined(__AVX512F__)  // the zero-masked forms: gcc 12 warns about an uninitialized operand inside the plain ones
KVASIR_INLINE F load(const f16* p) {
  return reinterpret_cast<F>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
KVASIR_INLINE void store(f16* p, F v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
KVASIR_INLINE F load(const f16* p) { return reinterpret_cast<F>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
KVASIR_INLINE void store(f16* p, F v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
KVASIR_INLINE F load(const f16* p) {
  F v;
  for (int i = 0; i < kLanes; ++i) v[i] = toFloat(p[i]);
  return v;
}
KVASIR_INLINE void store(f16* p, F v) {
  for (int i = 0; i < kLanes; ++i) p[i] = fromFloat<f16>(v[i]);
}
#endif

// The first n < kLanes elements; the other lanes are zero, or are not written. The same arithmetic runs on whole and partial
// vectors, so that a result never depends on where a row was split.
template <class T>
KVASIR_INLINE F loadPartial(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
}
template <class T>
KVASIR_INLINE void storePartial(T* p, F v, int64_t n) {
  T buffer[kLanes];
  store(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

// max(a, b); b where a is NaN.
KVASIR_INLINE F maximum(F a, F b) {
#if defined(__AVX512F__)
  return reinterpret_cast<F>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<F>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<F>(_mm_max_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#else
  return a > b ? a : b;
#endif
}

// Whether any lane of a comparison's result is true.
KVASIR_INLINE bool any(I mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(reinterpret_cast<__m128>(mask)) != 0;
#else
  int32_t all = 0;
  for (int i = 0; i < kLanes; ++i) all |= mask[i];
  return all != 0;
#endif
}

KVASIR_INLINE float horizontalMax(F v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

KVASIR_INLINE float horizontalSum(F v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// exp(x) with about 1e-7 relative error; overflows to infinity, underflows through the subnormals to 0, NaN stays NaN.
KVASIR_INLINE F exponential(F x) {
  x = x > 89.0f ? broadcast(89.0f) : x;
  x = x < -105.0f ? broadcast(-105.0f) : x;
  const F n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;     // ln 2 in two parts
  F p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const I exponent = __builtin_convertvector(n, I);
  const I low = exponent >> 1, high = exponent - low;  // two factors, so that neither overflows
  return p * reinterpret_cast<F>((reinterpret_cast<U>(low) + 127u) << 23) * reinterpret_cast<F>((reinterpret_cast<U>(high) + 127u) << 23);
}

// log(2^exponent * (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1], by the series of 2 atanh(f / (2 + f)).
KVASIR_INLINE F logarithmOf(F exponent, F f) {
  const F s = f / (2.0f + f), s2 = s * s;
  F p = broadcast(2.0f / 9);
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  return exponent * 0.693359375f + (s * (p * s2 + 2.0f) - exponent * 2.12194440e-4f);
}

// The exponent that puts the mantissa of a normal positive x into [sqrt(1/2), sqrt(2)).
KVASIR_INLINE I exponentOf(F x) { return (reinterpret_cast<I>(x) - 0x3f3504f3) >> 23; }
KVASIR_INLINE F mantissaOf(F x, I exponent) { return reinterpret_cast<F>(reinterpret_cast<I>(x) - (exponent << 23)); }

// log(x) of normal positive x, about 1e-7 relative error.
KVASIR_INLINE F logarithm(F x) {
  const I e = exponentOf(x);
  return logarithmOf(__builtin_convertvector(e, F), mantissaOf(x, e) - 1.0f);
}

// log(1 - v) for v in (0, 1), exact to about 1e-7 relative for small v too.
KVASIR_INLINE F logarithm1m(F v) {
  const F w = 1.0f - v;
  const I e = exponentOf(w);
  return logarithmOf(__builtin_convertvector(e, F), e == 0 ? -v : mantissaOf(w, e) - 1.0f);
}

}  // namespace
}  // namespace kvasir::cpu
