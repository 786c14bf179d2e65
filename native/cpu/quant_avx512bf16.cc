// Quantized weights on the dot products of 8-bit integers (vpdpbusd) and of bfloat16 pairs (vdpbf16ps). Weights are unpacked in registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 misreads its own _mm512_undefined_*
#endif
#include <immintrin.h>

#include "cpu/quant_kernels.h"
#include "cpu/quant_vec512.h"

namespace kvasir::cpu::avx512bf16 {

namespace {

// The sums of one chunk start from what its zero points take away.
template <bool Zeros, int Rows>
KVASIR_INLINE void start(__m512i (&sums)[Rows][kVectors], const int32_t* xSums, int64_t stride, const uint8_t* zeros) {
  each<kVectors>(KVASIR_EACH(v) {
    const __m512i pairs = Zeros ? zeroPairs(zeros + 16 * v.value) : _mm512_setzero_si512();
    each<Rows>(KVASIR_EACH(r) {
      const __m512i sum = _mm512_set1_epi32(xSums[r.value * stride]);
      sums[r.value][v.value] = Zeros ? _mm512_dpwssd_epi32(_mm512_setzero_si512(), pairs, sum) : sum;
    });
  });
}

template <int Rows>
KVASIR_INLINE void dot(__m512i (&sums)[Rows][kVectors], const char* x, int64_t xStride, const __m512i (&w)[kVectors]) {
  each<Rows>(KVASIR_EACH(r) {
    const __m512i a = broadcast4(x + r.value * xStride);
    each<kVectors>(KVASIR_EACH(v) { sums[r.value][v.value] = _mm512_dpbusd_epi32(sums[r.value][v.value], w[v.value], a); });
    keep(sums[r.value]);
  });
}

struct Int4Step {
  static constexpr int kInputs = 8;
  static constexpr Stream stream(int rows) { return rows == 1 ? Stream::FarL1 : Stream::Far; }
  template <int Rows>
  KVASIR_INLINE void run(__m512i (&sums)[Rows][kVectors], const char* x, int64_t xStride, const char* w) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i low[kVectors], high[kVectors];
    each<kVectors>(KVASIR_EACH(v) { low[v.value] = _mm512_and_si512(_mm512_loadu_si512(w + 64 * v.value), mask); });
    dot(sums, x, xStride, low);
    each<kVectors>(KVASIR_EACH(v) { high[v.value] = _mm512_and_si512(_mm512_srli_epi32(_mm512_loadu_si512(w + 64 * v.value), 4), mask); });
    dot(sums, x + 4, xStride, high);
  }
};

struct Int8Step {
  static constexpr int kInputs = 4;
  static constexpr Stream stream(int rows) { return rows <= 4 ? Stream::Near : Stream::Far; }
  template <int Rows>
  KVASIR_INLINE void run(__m512i (&sums)[Rows][kVectors], const char* x, int64_t xStride, const char* w) {
    __m512i words[kVectors];
    each<kVectors>(KVASIR_EACH(v) { words[v.value] = _mm512_loadu_si512(w + 64 * v.value); });
    dot(sums, x, xStride, words);
  }
};

// sums *= factors of the rows.
template <int Rows>
KVASIR_INLINE void scaleRows(__m512 (&sums)[Rows][kVectors], const float* factors, int64_t stride) {
  each<Rows>(KVASIR_EACH(r) {
    const __m512 factor = _mm512_set1_ps(factors[r.value * stride]);
    each<kVectors>(KVASIR_EACH(v) { sums[r.value][v.value] = _mm512_mul_ps(sums[r.value][v.value], factor); });
  });
}

template <class Step, bool Zeros, int Rows>
void dotTile(const QuantTile& t) {
  __m512 totals[Rows][kVectors];
  clear(totals);
  const char* x = static_cast<const char*>(t.x);
  const char* const end = x + t.k;
  const char* w = t.weight;
  const float* xFactors = t.xFactors;
  const int32_t* xSums = static_cast<const int32_t*>(t.xSums);
  const int64_t spanGroups = quantSpanGroups(t.group);
  Prefetch ahead(t, t.k / t.group * quantChunks(t.group));
  int64_t g = 0, left = t.group;  // inputs of the group still to come
  for (; x < end; ++xFactors) {
    scaleRows(totals, xFactors, t.xFactorStride);
    int64_t chunks = spanGroups;
    do {
      ahead.step();
      __m512i sums[Rows][kVectors];
      start<Zeros>(sums, xSums++, t.xSumStride, Zeros ? t.zeros + g : nullptr);
      const int64_t width = left < kQuantChunk ? left : kQuantChunk;
      int64_t steps = width / Step::kInputs;
      do {
        prefetchStream<Step::stream(Rows)>(w);
        Step::run(sums, x, t.xStride, w);
        x += Step::kInputs, w += kStepBytes;
      } while (--steps);
      keepAll(sums);
      each<kVectors>(KVASIR_EACH(v) {
        const __m512 scale = loadScales16(t.scales, t.scaleType, g + 16 * v.value);
        each<Rows>(KVASIR_EACH(r) {
          totals[r.value][v.value] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r.value][v.value]), scale, totals[r.value][v.value]);
        });
      });
      if (left -= width; left == 0) left = t.group, g += kQuantRows;
    } while (--chunks && x < end);
  }
  scaleRows(totals, xFactors, t.xFactorStride);
  storeAll(t.c, totals);
}

// bfloat16 of -8 .. 7, twice: the lookup takes five bits, of which the highest is another input's.
alignas(64) constexpr uint16_t kLessEight[32] = {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0,      0x3f80, 0x4000,
                                                 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
                                                 0xc000, 0xbf80, 0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};

// Eight inputs: each shift of the words shows one pair of them.
template <int Rows>
KVASIR_INLINE void int4Step(__m512 (&sums)[Rows][kVectors], const char* x, int64_t xStride, const char* w, __m512i table) {
  each<4>(KVASIR_EACH(p) {
    __m512bh pairs[kVectors];
    each<kVectors>(KVASIR_EACH(v) {
      pairs[v.value] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi32(_mm512_loadu_si512(w + 64 * v.value), 4 * p.value), table);
    });
    dotPairs(sums, x + 4 * p.value, xStride, pairs);
  });
}

template <bool Zeros, int Rows>
void int4Tile(const QuantTile& t) {
  const __m512i table = _mm512_load_si512(kLessEight);
  __m512 totals[Rows][kVectors];
  clear(totals);
  const char* x = static_cast<const char*>(t.x);
  const char* w = t.weight;
  const float* xSums = static_cast<const float*>(t.xSums);
  Prefetch ahead(t, t.k / t.group);
  int64_t g = 0;
  for (int64_t begin = 0; begin < t.k; begin += t.group, g += kQuantRows, ++xSums) {
    ahead.step();
    __m512 sums[Rows][kVectors];
    clear(sums);
    const char* const end = x + t.group * 2;
    do {
      prefetchStream<Stream::Far>(w);
      int4Step(sums, x, t.xStride, w, table);
      x += 16, w += kStepBytes;
    } while (x < end);
    keepAll(sums);
    each<kVectors>(KVASIR_EACH(v) {
      const __m512 scale = loadScales16(t.scales, t.scaleType, g + 16 * v.value);
      const __m512 shift =
          Zeros ? _mm512_sub_ps(_mm512_cvtepi32_ps(loadZeros16(t.zeros + g + 16 * v.value)), _mm512_set1_ps(8.0f)) : _mm512_setzero_ps();
      each<Rows>(KVASIR_EACH(r) {
        __m512 sum = sums[r.value][v.value];
        if constexpr (Zeros) sum = _mm512_fnmadd_ps(shift, _mm512_set1_ps(xSums[r.value * t.xSumStride]), sum);
        totals[r.value][v.value] = _mm512_fmadd_ps(sum, scale, totals[r.value][v.value]);
      });
    });
  }
  storeAll(t.c, totals);
}

template <class Step, bool Zeros>
QuantKernels dotTiles() {
  return {QuantInput::Int8,
          {dotTile<Step, Zeros, 1>, dotTile<Step, Zeros, 2>, dotTile<Step, Zeros, 3>, dotTile<Step, Zeros, 4>, dotTile<Step, Zeros, 5>,
           dotTile<Step, Zeros, 6>}};
}

template <bool Zeros>
QuantKernels int4Tiles() {
  return {QuantInput::BFloat16,
          {int4Tile<Zeros, 1>, int4Tile<Zeros, 2>, int4Tile<Zeros, 3>, int4Tile<Zeros, 4>, int4Tile<Zeros, 5>, int4Tile<Zeros, 6>}};
}

}  // namespace

QuantKernels quantDotKernels(QuantWeight weight, bool zeros) {
  if (weight == QuantWeight::Int8) return dotTiles<Int8Step, false>();
  return zeros ? dotTiles<Int4Step, true>() : dotTiles<Int4Step, false>();
}

QuantKernels quantInt4Kernels(bool zeros) { return zeros ? int4Tiles<true>() : int4Tiles<false>(); }

}  // namespace kvasir::cpu::avx512bf16
