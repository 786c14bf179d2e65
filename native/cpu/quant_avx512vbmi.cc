// fp8 weights times bfloat16: each byte becomes its exact bfloat16 by lookups of 128 entries (vpermi2b), one for either half.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 misreads its own _mm512_undefined_*
#endif
#include <immintrin.h>

#include "cpu/quant_kernels.h"
#include "cpu/quant_vec512.h"

namespace kvasir::cpu::avx512vbmi {

namespace {

// The low and high bytes of the bfloat16 of 0 .. 127: as e4m3 codes.
struct Tables {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};

constexpr uint16_t fp8Bits(int code) {
  const int exponent = code >> 3, mantissa = code & 7;
  if (code == 127) return 0x7fc0;
  if (exponent > 0) return static_cast<uint16_t>((exponent + 120) << 7 | mantissa << 4);
  int shift = 0;  // mantissa * 2^-9, normalized
  while (mantissa && !(mantissa << shift & 8)) ++shift;
  return mantissa ? static_cast<uint16_t>((121 - shift) << 7 | (mantissa << shift & 7) << 4) : uint16_t{0};
}

constexpr Tables fp8Tables() {
  Tables t{};
  for (int i = 0; i < 128; ++i) t.low[i] = static_cast<uint8_t>(fp8Bits(i) & 255), t.high[i] = static_cast<uint8_t>(fp8Bits(i) >> 8);
  return t;
}

constexpr Tables kFp8 = fp8Tables();

// Two pairs of inputs of 16 rows.
KVASIR_INLINE void fp8Pairs(__m512i codes, __m512bh& first, __m512bh& second) {
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8.low), codes, _mm512_load_si512(kFp8.low + 64));
  const __m512i size = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8.high), codes, _mm512_load_si512(kFp8.high + 64));
  const __m512i high = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(static_cast<char>(0x80)), size, 0xea);  // (codes & sign) | size
  first = (__m512bh)_mm512_unpacklo_epi8(low, high);
  second = (__m512bh)_mm512_unpackhi_epi8(low, high);
}

template <int Rows>
KVASIR_INLINE void fp8Step(__m512 (&sums)[Rows][kVectors], const char* x, int64_t xStride, const char* w) {
  __m512bh first[kVectors], second[kVectors];
  each<kVectors>(KVASIR_EACH(v) { fp8Pairs(_mm512_loadu_si512(w + 64 * v.value), first[v.value], second[v.value]); });
  dotPairs(sums, x, xStride, first);
  dotPairs(sums, x + 4, xStride, second);
}

template <int Rows>
void fp8Tile(const QuantTile& t) {
  __m512 totals[Rows][kVectors];
  clear(totals);
  const char* x = static_cast<const char*>(t.x);
  const char* w = t.weight;
  Prefetch ahead(t, t.k / kQuantChunk + 1);
  int64_t g = 0;
  for (int64_t begin = 0; begin < t.k; begin += t.group, g += kQuantRows) {
    const char* const end = x + (begin + t.group < t.k ? t.group : t.k - begin) * 2;
    __m512 sums[Rows][kVectors];
    clear(sums);
    do {
      if ((t.weight - w) % (kQuantChunk * kQuantRows) == 0) ahead.step();
      prefetchStream<Stream::Far>(w);
      fp8Step(sums, x, t.xStride, w);
      x += 8, w += kStepBytes;
    } while (x < end);
    keepAll(sums);
    each<kVectors>(KVASIR_EACH(v) {
      const __m512 scale = loadScales16(t.scales, t.scaleType, g + 16 * v.value);
      each<Rows>(KVASIR_EACH(r) { totals[r.value][v.value] = _mm512_fmadd_ps(sums[r.value][v.value], scale, totals[r.value][v.value]); });
    });
  }
  storeAll(t.c, totals);
}

}  // namespace

QuantKernels quantFp8Kernels() { return {QuantInput::BFloat16, {fp8Tile<1>, fp8Tile<2>, fp8Tile<3>, fp8Tile<4>, fp8Tile<5>, fp8Tile<6>}}; }

}  // namespace kvasir::cpu::avx512vbmi
