#include <immintrin.h>

#include "cpu/probe_kernels.h"

namespace kvasir::cpu::avx512 {

uint64_t probeSum(const char* data, int64_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    _mm_prefetch(data + i + 4096, _MM_HINT_T0);
    _mm_prefetch(data + i + 4160, _MM_HINT_T0);
    _mm_prefetch(data + i + 4224, _MM_HINT_T0);
    _mm_prefetch(data + i + 4288, _MM_HINT_T0);
    a = _mm512_add_epi64(a, _mm512_loadu_si512(data + i));
    b = _mm512_add_epi64(b, _mm512_loadu_si512(data + i + 64));
    c = _mm512_add_epi64(c, _mm512_loadu_si512(data + i + 128));
    d = _mm512_add_epi64(d, _mm512_loadu_si512(data + i + 192));
  }
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d))));
}

float probePeak(int64_t steps, int64_t* operations) {
  const __m512 x = _mm512_set1_ps(0.5f);
  __m512 s[12];
  for (auto& v : s) v = _mm512_setzero_ps();
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      s[i] = _mm512_fmadd_ps(s[i], x, x);
      asm volatile("" : "+v"(s[i]));
    }
  }
  *operations = steps * 12 * 32;
  __m512 total = s[0];
  for (int i = 1; i < 12; ++i) total = _mm512_add_ps(total, s[i]);
  return _mm512_reduce_add_ps(total);
}

}  // namespace kvasir::cpu::avx512
