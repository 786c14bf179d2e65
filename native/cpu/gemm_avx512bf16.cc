// bfloat16 tiles on vdpbf16ps: one instruction multiplies 16 pairs of k and adds them to 16 float32 sums.
#include <immintrin.h>

#include "cpu/gemm_kernels.h"

namespace kvasir::cpu::avx512bf16 {

namespace {

#define KVASIR_INLINE static inline __attribute__((always_inline))

constexpr int64_t kPairBytes = kTileCols * 4;  // one pair of k of a block
// Into L2, and this close: processors' own prefetchers follow the stream already, farther or L1 prefetches measured slower.
constexpr int64_t kAhead = 512;

KVASIR_INLINE __m512bh broadcastPair(const uint16_t* x) {
  int pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// One pair of k for all rows: 4 loads of weights, Rows broadcasts, 4 * Rows dot products.
template <int Rows>
KVASIR_INLINE void step(__m512 (&acc)[Rows][4], const uint16_t* x, int64_t xStride, const char* w) {
  _mm_prefetch(w + kAhead, _MM_HINT_T1);
  _mm_prefetch(w + kAhead + 64, _MM_HINT_T1);
  _mm_prefetch(w + kAhead + 128, _MM_HINT_T1);
  _mm_prefetch(w + kAhead + 192, _MM_HINT_T1);
  const __m512bh w0 = (__m512bh)_mm512_loadu_si512(w), w1 = (__m512bh)_mm512_loadu_si512(w + 64);
  const __m512bh w2 = (__m512bh)_mm512_loadu_si512(w + 128), w3 = (__m512bh)_mm512_loadu_si512(w + 192);
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    const __m512bh a = broadcastPair(x + r * xStride);
    acc[r][0] = _mm512_dpbf16_ps(acc[r][0], w0, a);
    acc[r][1] = _mm512_dpbf16_ps(acc[r][1], w1, a);
    acc[r][2] = _mm512_dpbf16_ps(acc[r][2], w2, a);
    acc[r][3] = _mm512_dpbf16_ps(acc[r][3], w3, a);
  }
}

template <int Rows>
void tile(const void* xData, int64_t xStride, const void* wData, int64_t k, float* c, bool accumulate, const char* next,
          int64_t nextLines) {
  const uint16_t* x = static_cast<const uint16_t*>(xData);
  const char* w = static_cast<const char*>(wData);
  __m512 acc[Rows][4];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = accumulate ? _mm512_loadu_ps(c + r * kTileCols + j * 16) : _mm512_setzero_ps();

  int64_t pairs = k / 2;
  const char* const nextEnd = next + nextLines * 64;
  const int64_t perGroup = (nextLines * 4 + pairs - 1) / pairs * 64;  // bytes to fetch per 4 pairs
  for (; pairs >= 4; pairs -= 4) {
    for (const char* stop = next + perGroup; next < stop && next < nextEnd; next += 64) _mm_prefetch(next, _MM_HINT_T1);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) step<Rows>(acc, x + 2 * p, xStride, w + p * kPairBytes);
    x += 8;
    w += 4 * kPairBytes;
  }
  for (; pairs > 0; --pairs, x += 2, w += kPairBytes) step<Rows>(acc, x, xStride, w);

#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(c + r * kTileCols + j * 16, acc[r][j]);
}

}  // namespace

GemmKernels gemmKernels() { return {DType::BFloat16, {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>}}; }

}  // namespace kvasir::cpu::avx512bf16
