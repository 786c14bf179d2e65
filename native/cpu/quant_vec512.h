// What the 512-bit tiles of quantized weights share. Everything is inlined into the including unit; nothing becomes a symbol.
#pragma once

#include <immintrin.h>

#include <utility>

#include "cpu/quant_kernels.h"

#define KVASIR_INLINE static inline __attribute__((always_inline))

namespace kvasir::cpu {
namespace {

// How a tile fetches the weights it will read. Kernels that compute little per byte leave most to the processor's own prefetchers, which do
// not get far enough ahead of those that compute much: without help these would wait for memory first and compute then.
enum class Stream {
  Near,   // 512 bytes ahead, into L2
  Far,    // 8 KB ahead, into L2
  FarL1,  // the same, into L1
};

constexpr int kVectors = kQuantRows / 16;
constexpr int kStepBytes = kQuantRows * 4;  // one word of each row

// fn(Index<0>), fn(Index<1>), ...: unrolled before the optimizer sees it, so that no array of sums is ever indexed by a variable.
template <int I>
struct Index {
  static constexpr int value = I;
};
template <class Fn, int... I>
KVASIR_INLINE void eachOf(Fn fn, std::integer_sequence<int, I...>) {
  (fn(Index<I>{}), ...);
}
template <int N, class Fn>
KVASIR_INLINE void each(Fn fn) {
  eachOf(fn, std::make_integer_sequence<int, N>{});
}
#define KVASIR_EACH(i) [&](auto i) __attribute__((always_inline))

// Say that sums are in registers here: at every step and after the last. Without either, GCC 12 copies every sum at every step and stores
// the copies.
template <class V>
KVASIR_INLINE void keep(V (&sums)[kVectors]) {
  asm("" : "+v"(sums[0]), "+v"(sums[1]));
}
template <class V, int Rows>
KVASIR_INLINE void keepAll(V (&sums)[Rows][kVectors]) {
  each<Rows * kVectors>(KVASIR_EACH(i) { asm("" : "+v"(sums[i.value / kVectors][i.value % kVectors])); });
}

template <Stream S>
KVASIR_INLINE void prefetchStream(const char* w) {
  constexpr int64_t kAhead = S == Stream::Near ? 512 : 8192;
  each<kStepBytes / 64>(KVASIR_EACH(line) { _mm_prefetch(w + kAhead + 64 * line.value, S == Stream::FarL1 ? _MM_HINT_T0 : _MM_HINT_T1); });
}

// Spreads the fetching of a tile's next lines over its steps.
struct Prefetch {
  const char *next, *end;
  int64_t perStep;
  __attribute__((always_inline)) Prefetch(const QuantTile& t, int64_t steps)
      : next(t.next), end(t.next + t.nextLines * 64), perStep((t.nextLines + steps - 1) / (steps > 0 ? steps : 1) * 64) {}
  __attribute__((always_inline)) void step() {
    for (const char* stop = next + perStep; next < stop && next < end; next += 64) _mm_prefetch(next, _MM_HINT_T1);
  }
};

KVASIR_INLINE __m512i broadcast4(const char* p) {
  int bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm512_set1_epi32(bits);
}

KVASIR_INLINE __m512 loadScales16(const void* scales, DType type, int64_t i) {
  if (type == DType::Float32) return _mm512_loadu_ps(static_cast<const float*>(scales) + i);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(scales) + i));
  if (type == DType::Float16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

KVASIR_INLINE __m512i loadZeros16(const uint8_t* zeros) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
}

// (zero, 256 * zero) of 16 columns, as pairs of 16-bit integers.
KVASIR_INLINE __m512i zeroPairs(const uint8_t* zeros) {
  const __m512i z = loadZeros16(zeros);
  return _mm512_or_si512(z, _mm512_slli_epi32(z, 24));
}

template <int Rows>
KVASIR_INLINE void clear(__m512 (&sums)[Rows][kVectors]) {
  each<Rows * kVectors>(KVASIR_EACH(i) { sums[i.value / kVectors][i.value % kVectors] = _mm512_setzero_ps(); });
}

// Rows of c are kQuantRows apart.
template <int Rows>
KVASIR_INLINE void storeAll(float* c, const __m512 (&sums)[Rows][kVectors]) {
  each<Rows>(KVASIR_EACH(r) {
    each<kVectors>(KVASIR_EACH(v) { _mm512_storeu_ps(c + r.value * kQuantRows + v.value * 16, sums[r.value][v.value]); });
  });
}

// sums += the products of a pair of inputs.
template <int Rows>
KVASIR_INLINE void dotPairs(__m512 (&sums)[Rows][kVectors], const char* x, int64_t xStride, const __m512bh (&w)[kVectors]) {
  each<Rows>(KVASIR_EACH(r) {
    const __m512bh a = (__m512bh)broadcast4(x + r.value * xStride);
    each<kVectors>(KVASIR_EACH(v) { sums[r.value][v.value] = _mm512_dpbf16_ps(sums[r.value][v.value], w[v.value], a); });
    keep(sums[r.value]);
  });
}

}  // namespace
}  // namespace kvasir::cpu
