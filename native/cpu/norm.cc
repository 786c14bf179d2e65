#include "cpu/norm.h"

#include "cpu/isa.h"
#include "cpu/norm_rows.h"

namespace kvasir::cpu {

namespace {

inline float loadElement(const f16* p, int64_t i) { return toFloat(p[i]); }
inline void storeElement(f16* p, int64_t i, float v) { p[i] = fromFloat<f16>(v); }
inline float rounded(const f16*, float v) { return toFloat(fromFloat<f16>(v)); }

#include "cpu/norm_row.inc"

template <class T>
using Row = void (*)(T*, const T*, T*, const T*, int64_t, float, bool);

template <class T>
void portableRow(T* out, const T* x, T* residual, const T* weight, int64_t n, float eps, bool gemma) {
  normRow(out, x, residual, weight, n, eps, gemma);
}

Row<f16> chooseRow(const f16*) { return portableRow<f16>; }
Row<float> chooseRow(const float*) {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::normRowF32;
  if (isa() >= Isa::Avx2) return avx2::normRowF32;
#endif
  return portableRow<float>;
}
Row<bf16> chooseRow(const bf16*) {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::normRowBf16;
  if (isa() >= Isa::Avx2) return avx2::normRowBf16;
#endif
  return portableRow<bf16>;
}

template <class T>
void rows(Pool& pool, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, double eps, bool gemma) {
  const int64_t hidden = x.dims[1];
  const Row<T> row = chooseRow(static_cast<const T*>(nullptr));
  pool.forRange(x.dims[0], 16384 / (hidden + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      row(out.ptr<T>() + t * out.strides[0], x.ptr<T>() + t * x.strides[0],
          residual ? residual->ptr<T>() + t * residual->strides[0] : nullptr, weight.ptr<T>(), hidden, static_cast<float>(eps), gemma);
  });
}

void dispatch(Pool& pool, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, double eps, bool gemma) {
  switch (x.dtype) {
    case DType::Float32: return rows<float>(pool, out, x, residual, weight, eps, gemma);
    case DType::BFloat16: return rows<bf16>(pool, out, x, residual, weight, eps, gemma);
    default: return rows<f16>(pool, out, x, residual, weight, eps, gemma);
  }
}

}  // namespace

void rmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma) {
  dispatch(pool, out, x, std::nullopt, weight, eps, gemma);
}

void addRmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma) {
  dispatch(pool, out, x, residual, weight, eps, gemma);
}

}  // namespace kvasir::cpu
