#include <immintrin.h>

#include "cpu/probe_kernels.h"

namespace kvasir::cpu::avx512bf16 {

// Twelve chains hide the latency; they are named variables because gcc 12 keeps an array of them in memory.
#define KVASIR_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define KVASIR_DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define KVASIR_STEP(i)          \
  s##i = _mm512_dpbf16_ps(s##i, x, x); \
  asm volatile("" : "+v"(s##i));
#define KVASIR_SUM(i) total = _mm512_add_ps(total, s##i);

float probePeak(int64_t steps, int64_t* operations) {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
  KVASIR_CHAINS(KVASIR_DECLARE)
  for (int64_t n = 0; n < steps; ++n) { KVASIR_CHAINS(KVASIR_STEP) }
  *operations = steps * 12 * 64;
  __m512 total = _mm512_setzero_ps();
  KVASIR_CHAINS(KVASIR_SUM)
  return _mm512_reduce_add_ps(total);
}

}  // namespace kvasir::cpu::avx512bf16
