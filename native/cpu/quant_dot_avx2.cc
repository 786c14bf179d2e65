// int4 weights times 8-bit activations on vpmaddubsw: products of unsigned nibbles and signed bytes in 16-bit pairs.
#include <immintrin.h>

#include "cpu/quant_kernels.h"

namespace kvasir::cpu::avx2 {

namespace {

#define KVASIR_INLINE static inline __attribute__((always_inline))

constexpr int64_t kFlush = 32;  // inputs: 8 times 2 * 15 * 127 still fits 16 bits

KVASIR_INLINE __m256 loadScales8(const void* scales, DType type, int64_t i) {
  if (type == DType::Float32) return _mm256_loadu_ps(static_cast<const float*>(scales) + i);
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(scales) + i));
  if (type == DType::Float16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// (zero, 256 * zero) of 8 columns, as pairs of 16-bit integers.
KVASIR_INLINE __m256i zeroPairs(const uint8_t* zeros) {
  const __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
  return _mm256_or_si256(z, _mm256_slli_epi32(z, 24));
}

KVASIR_INLINE __m256i broadcast4(const char* p) {
  int bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// sums += the products of `width` inputs.
template <int Rows, int Vectors>
KVASIR_INLINE void dot(__m256i (&sums)[Rows][Vectors], const char* x, int64_t xStride, const char* w, int64_t width) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i pairs[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) pairs[r][v] = _mm256_setzero_si256();
  for (int64_t i = 0; i < width; i += 8, x += 8, w += kQuantRows * 4)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + v * 32));
      const __m256i w0 = _mm256_and_si256(words, low), w1 = _mm256_and_si256(_mm256_srli_epi32(words, 4), low);
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        pairs[r][v] = _mm256_add_epi16(pairs[r][v], _mm256_maddubs_epi16(w0, broadcast4(x + r * xStride)));
        pairs[r][v] = _mm256_add_epi16(pairs[r][v], _mm256_maddubs_epi16(w1, broadcast4(x + r * xStride + 4)));
      }
    }
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(pairs[r][v], ones));
}

// Rows x Vectors * 8 columns from `first`. The totals stay in c: the registers hold the sums of a chunk.
template <bool Zeros, int Rows, int Vectors>
KVASIR_INLINE void dotPass(const QuantTile& t, int first) {
  const char* x = static_cast<const char*>(t.x);
  const char* w = t.weight + first * 4;
  const int32_t* xSums = static_cast<const int32_t*>(t.xSums);
  const int64_t groups = t.k / t.group, chunks = groups * quantChunks(t.group), spanGroups = quantSpanGroups(t.group);
  int64_t chunk = 0, g = first;
  for (int64_t begin = 0; begin < t.k; begin += t.group, g += kQuantRows)
    for (int64_t at = 0; at < t.group; at += kQuantChunk, ++chunk) {
      const int64_t width = t.group - at < kQuantChunk ? t.group - at : kQuantChunk;
      __m256i sums[Rows][Vectors];
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          const __m256i sum = _mm256_set1_epi32(xSums[r * t.xSumStride + chunk]);
          sums[r][v] = Zeros ? _mm256_madd_epi16(zeroPairs(t.zeros + g + v * 8), sum) : sum;
        }
      for (int64_t i = 0; i < width; i += kFlush, x += kFlush, w += kFlush / 8 * kQuantRows * 4)
        dot<Rows, Vectors>(sums, x, t.xStride, w, width - i < kFlush ? width - i : kFlush);
      if (width % kFlush) x -= kFlush - width % kFlush, w -= (kFlush - width % kFlush) / 8 * kQuantRows * 4;
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const __m256 scale = loadScales8(t.scales, t.scaleType, g + v * 8);
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
          float* c = t.c + r * kQuantRows + first + v * 8;
          __m256 total = chunk ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
          if (chunk % spanGroups == 0) total = _mm256_mul_ps(total, _mm256_set1_ps(t.xFactors[r * t.xFactorStride + chunk / spanGroups]));
          total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][v]), scale, total);
          if (chunk + 1 == chunks) total = _mm256_mul_ps(total, _mm256_set1_ps(t.xFactors[r * t.xFactorStride + quantSpans(groups, t.group)]));
          _mm256_storeu_ps(c, total);
        }
      }
    }
}

template <bool Zeros, int Rows>
void dotTile(const QuantTile& t) {
  constexpr int kVectors = Rows == 1 ? 4 : Rows == 2 ? 2 : 1;
  for (int64_t line = 0; line < t.nextLines; ++line) _mm_prefetch(t.next + line * 64, _MM_HINT_T1);
  for (int first = 0; first < kQuantRows; first += kVectors * 8) dotPass<Zeros, Rows, kVectors>(t, first);
}

template <bool Zeros>
QuantKernels dotTiles() {
  return {QuantInput::Int8, {dotTile<Zeros, 1>, dotTile<Zeros, 2>, dotTile<Zeros, 3>, dotTile<Zeros, 4>, dotTile<Zeros, 5>, dotTile<Zeros, 6>}};
}

}  // namespace

QuantKernels quantInt4DotKernels(bool zeros) { return zeros ? dotTiles<true>() : dotTiles<false>(); }

}  // namespace kvasir::cpu::avx2
