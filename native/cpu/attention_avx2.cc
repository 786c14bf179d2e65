// Attention on AVX2 with FMA and F16C: 8 floats a vector.
#include <immintrin.h>

#include "cpu/attention_split.h"

namespace kvasir::cpu::avx2 {

namespace {

#include "cpu/attention_kernel.inc"

struct Simd {
  using F = __m256;
  static constexpr int W = 8, kRows = 4, kPages = 1, kColumns = 2;
  KVASIR_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  KVASIR_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  KVASIR_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  KVASIR_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  KVASIR_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  KVASIR_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  KVASIR_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  KVASIR_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  KVASIR_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  KVASIR_INLINE F iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
  KVASIR_INLINE F pick(F x, F limit, F a, F b) { return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LT_OQ)); }
  KVASIR_INLINE F keep(F x, int lo, int hi, F fill) {
    const F lane = iota();
    const F inside = _mm256_and_ps(_mm256_cmp_ps(lane, set1(static_cast<float>(lo)), _CMP_GE_OQ),
                                   _mm256_cmp_ps(lane, set1(static_cast<float>(hi)), _CMP_LT_OQ));
    return _mm256_blendv_ps(fill, x, inside);
  }
  KVASIR_INLINE F exp2(F x);
  KVASIR_INLINE float reduceMax(F x) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
  }
  KVASIR_INLINE float reduceAdd(F x) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
  }
};

Simd::F Simd::exp2(F x) {  // below 2^-126 the result stays there: as good as zero
  x = max(x, set1(-126.0f));
  const F n = _mm256_floor_ps(x);
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(exp2Fraction<Simd>(sub(x, n))), exponent));
}

struct Float32 {
  static constexpr int kStep = 1, kBytes = 4, kABytes = 4;
  using A = __m256;
  using B = __m256;
  KVASIR_INLINE B load(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  KVASIR_INLINE A broadcast(const char* p) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(p)); }
  KVASIR_INLINE __m256 mac(__m256 acc, A a, B b) { return _mm256_fmadd_ps(a, b, acc); }
  KVASIR_INLINE void storeWeights(float* row, int key, __m256 p) { _mm256_storeu_ps(row + key, p); }
};

struct Float16 : Float32 {
  static constexpr int kBytes = 2;
  KVASIR_INLINE B load(const char* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
};

struct BFloat16 {
  static constexpr int kStep = 2, kBytes = 4, kABytes = 4;
  struct A {
    __m256 first, second;
  };
  struct B {
    __m256 first, second;
  };
  KVASIR_INLINE __m256 high(__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
  KVASIR_INLINE B load(const char* p) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), high(pairs)};
  }
  KVASIR_INLINE A broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {_mm256_broadcast_ss(x), _mm256_broadcast_ss(x + 1)};
  }
  KVASIR_INLINE __m256 mac(__m256 acc, const A& a, const B& b) {
    return _mm256_fmadd_ps(a.second, b.second, _mm256_fmadd_ps(a.first, b.first, acc));
  }
  KVASIR_INLINE B first(const B& b) { return {b.first, _mm256_setzero_ps()}; }
  KVASIR_INLINE B second(const B& b) { return {_mm256_setzero_ps(), b.second}; }
  KVASIR_INLINE void storeWeights(float* row, int key, __m256 p) { _mm256_storeu_ps(row + key, p); }
};

}  // namespace

AttentionKernels attention(DType cache) {
  switch (cache) {
    case DType::Float32: return Attend<Simd, Float32>::kernels(false);
    case DType::Float16: return Attend<Simd, Float16>::kernels(false);
    default: return Attend<Simd, BFloat16>::kernels(false);
  }
}

}  // namespace kvasir::cpu::avx2
