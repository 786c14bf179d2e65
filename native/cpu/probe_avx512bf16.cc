#include <immintrin.h>

#include "cpu/probe_kernels.h"

namespace kvasir::cpu::avx512bf16 {

float probePeak(int64_t steps, int64_t* operations) {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
  __m512 s[12];
  for (auto& v : s) v = _mm512_setzero_ps();
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      s[i] = _mm512_dpbf16_ps(s[i], x, x);
      asm volatile("" : "+v"(s[i]));
    }
  }
  *operations = steps * 12 * 64;
  __m512 total = s[0];
  for (int i = 1; i < 12; ++i) total = _mm512_add_ps(total, s[i]);
  return _mm512_reduce_add_ps(total);
}

}  // namespace kvasir::cpu::avx512bf16
