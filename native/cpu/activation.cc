#include "cpu/activation.h"

#include <algorithm>

#include "cpu/activation_rows.h"
#include "cpu/isa.h"
#include "cpu/vec.h"

namespace kvasir::cpu {

namespace {

#include "cpu/activation_row.inc"

void portableRow(Activation f, DType dtype, void* out, const void* x, const void* up, int64_t n) { activateRow(f, dtype, out, x, up, n); }

ActivationRow chooseRow() {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::activationRow;
  if (isa() >= Isa::Avx2) return avx2::activationRow;
#endif
  return portableRow;
}

// Splits the elements of out, not its rows: a decode step has few long rows.
void forElements(Pool& pool, Activation f, const Tensor& out, const Tensor& x, bool gated) {
  const int64_t width = out.dims[1], size = elementSize(out.dtype);
  const ActivationRow row = chooseRow();
  pool.forRange(out.dims[0] * width, 8192, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end;) {
      const int64_t t = i / width, column = i % width, n = std::min(width - column, end - i);
      const char* input = x.ptr<char>() + (t * x.strides[0] + column) * size;
      row(f, out.dtype, out.ptr<char>() + (t * out.strides[0] + column) * size, input, gated ? input + width * size : nullptr, n);
      i += n;
    }
  });
}

}  // namespace

void siluAndMul(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::Silu}, out, x, true); }
void geluAndMul(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::Gelu}, out, x, true); }
void geluTanhAndMul(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::GeluTanh}, out, x, true); }
void silu(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::Silu}, out, x, false); }
void gelu(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::Gelu}, out, x, false); }
void geluTanh(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::GeluTanh}, out, x, false); }
void relu(Pool& pool, const Tensor& out, const Tensor& x) { forElements(pool, {Function::Relu}, out, x, false); }
void scale(Pool& pool, const Tensor& out, const Tensor& x, double factor) {
  forElements(pool, {Function::Scale, static_cast<float>(factor)}, out, x, false);
}
void softCap(Pool& pool, const Tensor& out, const Tensor& x, double cap) {
  forElements(pool, {Function::SoftCap, static_cast<float>(cap)}, out, x, false);
}

}  // namespace kvasir::cpu
