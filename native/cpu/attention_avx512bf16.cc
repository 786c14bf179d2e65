// Attention over bfloat16 caches on vdpbf16ps: queries and weights are bfloat16, sums float32.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#include <immintrin.h>

#include "cpu/attention_split.h"

namespace kvasir::cpu::avx512bf16 {

namespace {

#include "cpu/attention_kernel.inc"
#include "cpu/attention_avx512.inc"

struct BFloat16 {
  static constexpr int kStep = 2, kBytes = 4, kABytes = 2;
  using A = __m512bh;
  using B = __m512i;  // 16 pairs: the first of a pair in the low half
  KVASIR_INLINE B load(const char* p) { return _mm512_loadu_si512(p); }
  KVASIR_INLINE A broadcast(const char* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  KVASIR_INLINE __m512 mac(__m512 acc, A a, B b) { return _mm512_dpbf16_ps(acc, a, (__m512bh)b); }
  KVASIR_INLINE B first(B b) { return _mm512_and_si512(b, _mm512_set1_epi32(0xffff)); }
  KVASIR_INLINE B second(B b) { return _mm512_and_si512(b, _mm512_set1_epi32(static_cast<int>(0xffff0000u))); }
  // Over the row's own scores: weights take half their place and are written behind the reader.
  KVASIR_INLINE void storeWeights(float* row, int key, __m512 p) {
    const __m256bh rounded = _mm512_cvtneps_pbh(p);
    __builtin_memcpy(reinterpret_cast<char*>(row) + key * 2, &rounded, sizeof rounded);
  }
};

}  // namespace

AttentionKernels attention() { return Attend<Simd, BFloat16>::kernels(true); }

}  // namespace kvasir::cpu::avx512bf16
