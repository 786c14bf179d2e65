#include "cpu/norm.h"

#include <algorithm>
#include <vector>

#include "cpu/isa.h"
#include "cpu/norm_rows.h"

namespace kvasir::cpu {

namespace {

inline float loadElement(const f16* p, int64_t i) { return toFloat(p[i]); }
inline void storeElement(f16* p, int64_t i, float v) { p[i] = fromFloat<f16>(v); }
inline float rounded(const f16*, float v) { return toFloat(fromFloat<f16>(v)); }

#include "cpu/norm_row.inc"

// The row kernels of an element type.
template <class T>
struct Rows {
  void (*rms)(T*, const T*, T*, const T*, int64_t, float, bool);
  void (*layer)(T*, const T*, T*, const T*, const T*, int64_t, float);
  void (*add)(T*, const T*, const T*, int64_t);
};

template <class T>
Rows<T> portableRows() {
  return {[](T* out, const T* x, T* residual, const T* weight, int64_t n, float eps, bool gemma) { normRow(out, x, residual, weight, n, eps, gemma); },
          [](T* out, const T* x, T* residual, const T* weight, const T* bias, int64_t n, float eps) { layerNormRow(out, x, residual, weight, bias, n, eps); },
          [](T* out, const T* x, const T* y, int64_t n) { addRow(out, x, y, n); }};
}

Rows<f16> chooseRows(const f16*) { return portableRows<f16>(); }
Rows<float> chooseRows(const float*) {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return {avx512::normRowF32, avx512::layerNormRowF32, avx512::addRowF32};
  if (isa() >= Isa::Avx2) return {avx2::normRowF32, avx2::layerNormRowF32, avx2::addRowF32};
#endif
  return portableRows<float>();
}
Rows<bf16> chooseRows(const bf16*) {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return {avx512::normRowBf16, avx512::layerNormRowBf16, avx512::addRowBf16};
  if (isa() >= Isa::Avx2) return {avx2::normRowBf16, avx2::layerNormRowBf16, avx2::addRowBf16};
#endif
  return portableRows<bf16>();
}

template <class T>
T* rowOf(const Tensor& x, int64_t t) {
  return x.ptr<T>() + t * x.strides[0];
}
template <class T>
T* rowOf(const MaybeTensor& x, int64_t t) {
  return x ? rowOf<T>(*x, t) : nullptr;
}

// Calls body(rows, t, null pointer of the element type) for every row t of x.
template <class T, class F>
void forRowsAs(Pool& pool, const Tensor& x, const F& body) {
  const Rows<T> rows = chooseRows(static_cast<const T*>(nullptr));
  pool.forRange(x.dims[0], 16384 / (x.dims[1] + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) body(rows, t, static_cast<T*>(nullptr));
  });
}

template <class F>
void forRows(Pool& pool, const Tensor& x, const F& body) {
  switch (x.dtype) {
    case DType::Float32: return forRowsAs<float>(pool, x, body);
    case DType::BFloat16: return forRowsAs<bf16>(pool, x, body);
    default: return forRowsAs<f16>(pool, x, body);
  }
}

void rmsNormRows(Pool& pool, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, double eps, bool gemma) {
  forRows(pool, x, [&]<class T>(const Rows<T>& rows, int64_t t, T*) {
    rows.rms(rowOf<T>(out, t), rowOf<T>(x, t), rowOf<T>(residual, t), weight.ptr<T>(), x.dims[1], static_cast<float>(eps), gemma);
  });
}

void layerNormRows(Pool& pool, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps) {
  forRows(pool, x, [&]<class T>(const Rows<T>& rows, int64_t t, T*) {
    const T* shift = bias ? bias->ptr<T>() : nullptr;
    rows.layer(rowOf<T>(out, t), rowOf<T>(x, t), rowOf<T>(residual, t), weight.ptr<T>(), shift, x.dims[1], static_cast<float>(eps));
  });
}

// The row kernels are fast where out and x are apart.
template <class T>
void normRowsInPlace(void* x, int64_t stride, int64_t count, const void* weight, int64_t n, float eps, bool gemma) {
  const Rows<T> rows = chooseRows(static_cast<const T*>(nullptr));
  std::vector<T> copy(static_cast<size_t>(n));
  for (int64_t i = 0; i < count; ++i) {
    T* row = static_cast<T*>(x) + i * stride;
    std::copy_n(row, n, copy.data());
    rows.rms(row, copy.data(), nullptr, static_cast<const T*>(weight), n, eps, gemma);
  }
}

}  // namespace

NormRowsInPlace chooseNormRowsInPlace(DType dtype) {
  switch (dtype) {
    case DType::Float32: return normRowsInPlace<float>;
    case DType::BFloat16: return normRowsInPlace<bf16>;
    default: return normRowsInPlace<f16>;
  }
}

void rmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma) {
  rmsNormRows(pool, out, x, std::nullopt, weight, eps, gemma);
}

void addRmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma) {
  rmsNormRows(pool, out, x, residual, weight, eps, gemma);
}

void layerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps) {
  layerNormRows(pool, out, x, std::nullopt, weight, bias, eps);
}

void addLayerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps) {
  layerNormRows(pool, out, x, residual, weight, bias, eps);
}

void add(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& y) {
  forRows(pool, x, [&]<class T>(const Rows<T>& rows, int64_t t, T*) { rows.add(rowOf<T>(out, t), rowOf<T>(x, t), rowOf<T>(y, t), x.dims[1]); });
}

}  // namespace kvasir::cpu
