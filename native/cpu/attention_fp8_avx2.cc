#include <immintrin.h>

#include "cpu/attention_fp8.h"

namespace kvasir::cpu::avx2 {

namespace {

// 16 codes in 16-bit lanes.
inline __attribute__((always_inline)) __m256i widen(__m256i codes) {
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f));
  const __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
  // mantissa * 2^-9, looked up byte by byte
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
  const __m256i bytes = _mm256_add_epi16(_mm256_mullo_epi16(magnitude, _mm256_set1_epi16(0x0202)), _mm256_set1_epi16(0x0100));
  const __m256i isSubnormal = _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude);
  const __m256i size = _mm256_blendv_epi8(normal, _mm256_shuffle_epi8(table, bytes), isSubnormal);
  const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f)), _mm256_set1_epi16(0x7fc0));
  const __m256i sign = _mm256_and_si256(_mm256_slli_epi16(codes, 8), _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
  return _mm256_or_si256(_mm256_or_si256(size, nan), sign);
}

}  // namespace

void widenFp8(const char* from, bf16* to, int64_t count, const char* ahead) {
  for (int64_t i = 0; i < count; i += 32) {
    if (ahead) __builtin_prefetch(ahead + i, 0, 1);
    for (int64_t j = i; j < i + 32; j += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + j), widen(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)))));
  }
}

}  // namespace kvasir::cpu::avx2
