// Tiles in plain C++ for processors without a faster set. The compiler vectorizes the loops over columns.
#include "cpu/gemm_kernels.h"

namespace kvasir::cpu::portable {

namespace {

constexpr int kColumns = 8;  // accumulated at a time: 6 x 8 sums fit the 16 vector registers of plain x86-64

// The k-th element of column j of a packed block.
inline float weightAt(const float* w, int64_t k, int j) { return w[k * kTileCols + j]; }
inline float weightAt(const f16* w, int64_t k, int j) { return toFloat(w[k * kTileCols + j]); }
inline float weightAt(const bf16* w, int64_t k, int j) { return toFloat(w[(k / 2 * kTileCols + j) * 2 + k % 2]); }

template <class W, int Rows>
void tile(const void* xData, int64_t xStride, const void* wData, int64_t k, float* c, bool accumulate, const char*, int64_t) {
  const float* x = static_cast<const float*>(xData);
  const W* w = static_cast<const W*>(wData);
  for (int j0 = 0; j0 < kTileCols; j0 += kColumns) {
    float sums[Rows][kColumns];
    for (int r = 0; r < Rows; ++r)
      for (int j = 0; j < kColumns; ++j) sums[r][j] = accumulate ? c[r * kTileCols + j0 + j] : 0.0f;
    for (int64_t i = 0; i < k; ++i) {
      float column[kColumns];
      for (int j = 0; j < kColumns; ++j) column[j] = weightAt(w, i, j0 + j);
      for (int r = 0; r < Rows; ++r)
        for (int j = 0; j < kColumns; ++j) sums[r][j] += x[r * xStride + i] * column[j];
    }
    for (int r = 0; r < Rows; ++r)
      for (int j = 0; j < kColumns; ++j) c[r * kTileCols + j0 + j] = sums[r][j];
  }
}

template <class T>
void widenRow(const void* source, int64_t n, float* target) {
  for (int64_t i = 0; i < n; ++i) target[i] = toFloat(static_cast<const T*>(source)[i]);
}

void widen(DType from, const void* source, int64_t n, float* target) {
  switch (from) {
    case DType::Float16: return widenRow<f16>(source, n, target);
    case DType::BFloat16: return widenRow<bf16>(source, n, target);
    default: return widenRow<float>(source, n, target);
  }
}

template <class T>
void storeRow(const float* c, const float* bias, int64_t n, void* target) {
  for (int64_t i = 0; i < n; ++i) static_cast<T*>(target)[i] = fromFloat<T>(bias ? c[i] + bias[i] : c[i]);
}

void store(const float* c, const float* bias, int64_t n, DType to, void* target) {
  switch (to) {
    case DType::Float16: return storeRow<f16>(c, bias, n, target);
    case DType::BFloat16: return storeRow<bf16>(c, bias, n, target);
    default: return storeRow<float>(c, bias, n, target);
  }
}

template <class W>
GemmKernels kernels() {
  return {DType::Float32, {tile<W, 1>, tile<W, 2>, tile<W, 3>, tile<W, 4>, tile<W, 5>, tile<W, 6>}};
}

}  // namespace

GemmKernels gemmKernels(DType weight) {
  switch (weight) {
    case DType::Float16: return kernels<f16>();
    case DType::BFloat16: return kernels<bf16>();
    default: return kernels<float>();
  }
}

RowKernels gemmRowKernels() { return {widen, store}; }

}  // namespace kvasir::cpu::portable
