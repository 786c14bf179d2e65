// Tiles on 512-bit fused multiply-add, with float32 activations. 16-bit weights are widened in registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 misreads its own _mm512_undefined_*
#endif
#include <immintrin.h>

#include "cpu/gemm_kernels.h"

namespace kvasir::cpu::avx512 {

namespace {

#define KVASIR_INLINE static inline __attribute__((always_inline))

// Into L2, and this close: processors' own prefetchers follow the stream already, farther or L1 prefetches measured slower.
constexpr int64_t kAhead = 512;

// A step is what one load of 16 columns holds: kDepth values of k. load() gives them as float32, in the order of k.
struct Float32Weights {
  static constexpr int kDepth = 1, kBytes = kTileCols * 4;
  KVASIR_INLINE void load(const char* w, int j, __m512 (&out)[kDepth]) { out[0] = _mm512_loadu_ps(w + j * 64); }
};
struct Float16Weights {
  static constexpr int kDepth = 1, kBytes = kTileCols * 2;
  KVASIR_INLINE void load(const char* w, int j, __m512 (&out)[kDepth]) {
    out[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + j * 32)));
  }
};
struct BFloat16Weights {
  static constexpr int kDepth = 2, kBytes = kTileCols * 4;
  KVASIR_INLINE void load(const char* w, int j, __m512 (&out)[kDepth]) {
    const __m512i pair = _mm512_loadu_si512(w + j * 64);
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
};

template <class W, int Rows>
KVASIR_INLINE void step(__m512 (&acc)[Rows][4], const float* x, int64_t xStride, const char* w) {
#pragma GCC unroll 4
  for (int line = 0; line < W::kBytes; line += 64) _mm_prefetch(w + kAhead + line, _MM_HINT_T1);
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {  // 32 columns at a time: widened pairs of all 64 would not fit beside the sums
    __m512 left[W::kDepth], right[W::kDepth];
    W::load(w, 2 * half, left);
    W::load(w, 2 * half + 1, right);
#pragma GCC unroll 2
    for (int d = 0; d < W::kDepth; ++d)
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        const __m512 a = _mm512_set1_ps(x[r * xStride + d]);
        acc[r][2 * half] = _mm512_fmadd_ps(left[d], a, acc[r][2 * half]);
        acc[r][2 * half + 1] = _mm512_fmadd_ps(right[d], a, acc[r][2 * half + 1]);
      }
  }
}

template <class W, int Rows>
void tile(const void* xData, int64_t xStride, const void* wData, int64_t k, float* c, bool accumulate, const char* next,
          int64_t nextLines) {
  const float* x = static_cast<const float*>(xData);
  const char* w = static_cast<const char*>(wData);
  __m512 acc[Rows][4];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = accumulate ? _mm512_loadu_ps(c + r * kTileCols + j * 16) : _mm512_setzero_ps();

  int64_t steps = k / W::kDepth;
  const char* const nextEnd = next + nextLines * 64;
  const int64_t perGroup = (nextLines * 4 + steps - 1) / steps * 64;  // bytes to fetch per 4 steps
  for (; steps >= 4; steps -= 4) {
    for (const char* stop = next + perGroup; next < stop && next < nextEnd; next += 64) _mm_prefetch(next, _MM_HINT_T1);
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) step<W, Rows>(acc, x + s * W::kDepth, xStride, w + s * W::kBytes);
    x += 4 * W::kDepth;
    w += 4 * W::kBytes;
  }
  for (; steps > 0; --steps, x += W::kDepth, w += W::kBytes) step<W, Rows>(acc, x, xStride, w);

#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(c + r * kTileCols + j * 16, acc[r][j]);
}

KVASIR_INLINE __mmask16 firstLanes(int64_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

void widen(DType from, const void* source, int64_t n, float* target) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = firstLanes(n - i);
    __m512 v;
    if (from == DType::Float32) {
      v = _mm512_maskz_loadu_ps(lanes, static_cast<const float*>(source) + i);
    } else {
      const __m256i half = _mm256_maskz_loadu_epi16(lanes, static_cast<const uint16_t*>(source) + i);
      v = from == DType::Float16 ? _mm512_cvtph_ps(half) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
    _mm512_mask_storeu_ps(target + i, lanes, v);
  }
}

// Round to nearest even; NaN keeps its sign and becomes quiet.
KVASIR_INLINE __m256i toBFloat16(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
}

void store(const float* c, const float* bias, int64_t n, DType to, void* target) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = firstLanes(n - i);
    __m512 v = _mm512_maskz_loadu_ps(lanes, c + i);
    if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(lanes, bias + i));
    if (to == DType::Float32) {
      _mm512_mask_storeu_ps(static_cast<float*>(target) + i, lanes, v);
    } else {
      const __m256i half = to == DType::Float16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : toBFloat16(v);
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(target) + i, lanes, half);
    }
  }
}

template <class W>
GemmKernels kernels() {
  return {DType::Float32, {tile<W, 1>, tile<W, 2>, tile<W, 3>, tile<W, 4>, tile<W, 5>, tile<W, 6>}};
}

}  // namespace

GemmKernels gemmKernels(DType weight) {
  switch (weight) {
    case DType::Float16: return kernels<Float16Weights>();
    case DType::BFloat16: return kernels<BFloat16Weights>();
    default: return kernels<Float32Weights>();
  }
}

RowKernels gemmRowKernels() { return {widen, store}; }

}  // namespace kvasir::cpu::avx512
