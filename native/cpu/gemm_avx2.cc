// Tiles on 256-bit fused multiply-add, with float32 activations. With 16 registers a tile goes over its 64 columns in passes.
#include <immintrin.h>

#include "cpu/gemm_kernels.h"

namespace kvasir::cpu::avx2 {

namespace {

#define KVASIR_INLINE static inline __attribute__((always_inline))

// Into L2, and this close: processors' own prefetchers follow the stream already, farther or L1 prefetches measured slower.
constexpr int64_t kAhead = 512;

// at(): element d of the kDepth values of k that a step holds, for 8 columns (vector j of a block), as float32.
struct Float32Weights {
  static constexpr int kDepth = 1, kBytes = kTileCols * 4;
  KVASIR_INLINE __m256 at(const char* w, int j, int) { return _mm256_loadu_ps(reinterpret_cast<const float*>(w) + j * 8); }
};
struct Float16Weights {
  static constexpr int kDepth = 1, kBytes = kTileCols * 2;
  KVASIR_INLINE __m256 at(const char* w, int j, int) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + j * 16))); }
};
struct BFloat16Weights {
  static constexpr int kDepth = 2, kBytes = kTileCols * 4;
  KVASIR_INLINE __m256 at(const char* w, int j, int d) {
    const __m256i pair = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + j * 32));
    if (d == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
};

// Rows x Vectors * 8 columns, starting at vector `first` of the block.
template <class W, int Rows, int Vectors>
KVASIR_INLINE void pass(int first, const float* x, int64_t xStride, const char* w, int64_t k, float* c, bool accumulate) {
  __m256 acc[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j)
      acc[r][j] = accumulate ? _mm256_loadu_ps(c + r * kTileCols + (first + j) * 8) : _mm256_setzero_ps();

  for (int64_t i = 0; i < k; i += W::kDepth, x += W::kDepth, w += W::kBytes) {
    if (first == 0) {
#pragma GCC unroll 4
      for (int line = 0; line < W::kBytes; line += 64) _mm_prefetch(w + kAhead + line, _MM_HINT_T1);
    }
#pragma GCC unroll 2
    for (int d = 0; d < W::kDepth; ++d) {
      __m256 b[Vectors];
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) b[j] = W::at(w, first + j, d);
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        const __m256 a = _mm256_broadcast_ss(x + r * xStride + d);
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) acc[r][j] = _mm256_fmadd_ps(b[j], a, acc[r][j]);
      }
    }
  }

#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) _mm256_storeu_ps(c + r * kTileCols + (first + j) * 8, acc[r][j]);
}

template <class W, int Rows>
void tile(const void* xData, int64_t xStride, const void* wData, int64_t k, float* c, bool accumulate, const char* next,
          int64_t nextLines) {
  const float* x = static_cast<const float*>(xData);
  const char* w = static_cast<const char*>(wData);
  constexpr int kVectors = Rows == 1 ? 8 : Rows == 2 ? 4 : 2;  // at most 12 sums, leaving registers for operands
  for (int first = 0; first < 8; first += kVectors) pass<W, Rows, kVectors>(first, x, xStride, w, k, c, accumulate);
  for (int64_t line = 0; line < nextLines; ++line) _mm_prefetch(next + line * 64, _MM_HINT_T1);
}

KVASIR_INLINE __m256 widen8(DType from, const void* source, int64_t i) {
  if (from == DType::Float32) return _mm256_loadu_ps(static_cast<const float*>(source) + i);
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(source) + i));
  if (from == DType::Float16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// Round to nearest even; NaN keeps its sign and becomes quiet.
KVASIR_INLINE __m128i toBFloat16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

KVASIR_INLINE void store8(__m256 v, DType to, void* target, int64_t i) {
  if (to == DType::Float32) return _mm256_storeu_ps(static_cast<float*>(target) + i, v);
  const __m128i half = to == DType::Float16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : toBFloat16(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(target) + i), half);
}

KVASIR_INLINE int64_t sizeOf(DType dtype) { return dtype == DType::Float32 ? 4 : 2; }

void widen(DType from, const void* source, int64_t n, float* target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(target + i, widen8(from, source, i));
  if (i == n) return;
  alignas(32) char in[32] = {};
  alignas(32) float out[8];
  __builtin_memcpy(in, static_cast<const char*>(source) + i * sizeOf(from), static_cast<size_t>((n - i) * sizeOf(from)));
  _mm256_store_ps(out, widen8(from, in, 0));
  __builtin_memcpy(target + i, out, static_cast<size_t>(n - i) * 4);
}

void store(const float* c, const float* bias, int64_t n, DType to, void* target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(c + i);
    store8(bias ? _mm256_add_ps(v, _mm256_loadu_ps(bias + i)) : v, to, target, i);
  }
  if (i == n) return;
  alignas(32) float rest[8] = {};
  alignas(32) char out[32];
  for (int64_t j = i; j < n; ++j) rest[j - i] = bias ? c[j] + bias[j] : c[j];
  store8(_mm256_load_ps(rest), to, out, 0);
  __builtin_memcpy(static_cast<char*>(target) + i * sizeOf(to), out, static_cast<size_t>((n - i) * sizeOf(to)));
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

}  // namespace kvasir::cpu::avx2
