#include <immintrin.h>

#include "cpu/probe_kernels.h"

namespace kvasir::cpu::avx512 {

uint64_t probeSum(const char* data, int64_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    for (int64_t line = 0; line < 256; line += 64) _mm_prefetch(data + i + 1024 + line, _MM_HINT_T1);
    a = _mm512_add_epi64(a, _mm512_loadu_si512(data + i));
    b = _mm512_add_epi64(b, _mm512_loadu_si512(data + i + 64));
    c = _mm512_add_epi64(c, _mm512_loadu_si512(data + i + 128));
    d = _mm512_add_epi64(d, _mm512_loadu_si512(data + i + 192));
  }
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d))));
}

// Twelve chains hide the latency; they are named variables because gcc 12 keeps an array of them in memory.
#define KVASIR_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define KVASIR_DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define KVASIR_STEP(i)          \
  s##i = _mm512_fmadd_ps(s##i, x, x); \
  asm volatile("" : "+v"(s##i));
#define KVASIR_SUM(i) total = _mm512_add_ps(total, s##i);

float probePeak(int64_t steps, int64_t* operations) {
  const __m512 x = _mm512_set1_ps(0.5f);
  KVASIR_CHAINS(KVASIR_DECLARE)
  for (int64_t n = 0; n < steps; ++n) { KVASIR_CHAINS(KVASIR_STEP) }
  *operations = steps * 12 * 32;
  __m512 total = _mm512_setzero_ps();
  KVASIR_CHAINS(KVASIR_SUM)
  return _mm512_reduce_add_ps(total);
}

}  // namespace kvasir::cpu::avx512
