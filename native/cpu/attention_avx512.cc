// Attention on AVX-512 without bfloat16 instructions: products and sums are float32 multiply-adds.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#include <immintrin.h>

#include "cpu/attention_split.h"

namespace kvasir::cpu::avx512 {

namespace {

#include "cpu/attention_kernel.inc"
#include "cpu/attention_avx512.inc"

struct Float32 {
  static constexpr int kStep = 1, kBytes = 4, kABytes = 4;
  using A = __m512;
  using B = __m512;
  KVASIR_INLINE B load(const char* p) { return _mm512_loadu_ps(p); }
  KVASIR_INLINE A broadcast(const char* p) { return _mm512_set1_ps(*reinterpret_cast<const float*>(p)); }
  KVASIR_INLINE __m512 mac(__m512 acc, A a, B b) { return _mm512_fmadd_ps(a, b, acc); }
  KVASIR_INLINE void storeWeights(float* row, int key, __m512 p) { _mm512_storeu_ps(row + key, p); }
};

struct Float16 : Float32 {
  static constexpr int kBytes = 2;
  KVASIR_INLINE B load(const char* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
};

struct BFloat16 {
  static constexpr int kStep = 2, kBytes = 4, kABytes = 4;
  struct A {
    __m512 first, second;
  };
  using B = __m512i;  // 16 pairs: the first of a pair in the low half
  KVASIR_INLINE B load(const char* p) { return _mm512_loadu_si512(p); }
  KVASIR_INLINE A broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {_mm512_set1_ps(x[0]), _mm512_set1_ps(x[1])};
  }
  KVASIR_INLINE __m512 mac(__m512 acc, const A& a, B b) {
    acc = _mm512_fmadd_ps(a.first, _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), acc);
    return _mm512_fmadd_ps(a.second, _mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))), acc);
  }
  KVASIR_INLINE B first(B b) { return _mm512_and_si512(b, _mm512_set1_epi32(0xffff)); }
  KVASIR_INLINE B second(B b) { return _mm512_and_si512(b, _mm512_set1_epi32(static_cast<int>(0xffff0000u))); }
  KVASIR_INLINE void storeWeights(float* row, int key, __m512 p) { _mm512_storeu_ps(row + key, p); }
};

}  // namespace

AttentionKernels attention(DType cache) {
  switch (cache) {
    case DType::Float32: return Attend<Simd, Float32>::kernels(false);
    case DType::Float16: return Attend<Simd, Float16>::kernels(false);
    default: return Attend<Simd, BFloat16>::kernels(false);
  }
}

}  // namespace kvasir::cpu::avx512
