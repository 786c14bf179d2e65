#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#include <immintrin.h>

#include "cpu/attention_fp8.h"

namespace kvasir::cpu::avx512 {

namespace {

// 32 codes in 16-bit lanes.
inline __attribute__((always_inline)) __m512i widen(__m512i codes) {
  const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
  const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
  // mantissa * 2^-9
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
  const __m512i finite = _mm512_mask_permutexvar_epi16(normal, _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8)), magnitude, table);
  const __mmask32 isNan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  const __m512i size = _mm512_mask_blend_epi16(isNan, finite, _mm512_set1_epi16(0x7fc0));
  return _mm512_ternarylogic_epi32(_mm512_slli_epi16(codes, 8), _mm512_set1_epi16(static_cast<int16_t>(0x8000)), size, 0xea);  // (a & b) | c
}

}  // namespace

void widenFp8(const char* from, bf16* to, int64_t count, const char* ahead) {
  for (int64_t i = 0; i < count; i += 32) {
    if (ahead) __builtin_prefetch(ahead + i, 0, 1);
    _mm512_storeu_si512(to + i, widen(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)))));
  }
}

}  // namespace kvasir::cpu::avx512
