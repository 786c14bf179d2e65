#include "cpu/activation_rows.h"
#include "cpu/vec.h"

namespace kvasir::cpu {
namespace {
#include "cpu/activation_row.inc"
}
void avx512::activationRow(Activation f, DType dtype, void* out, const void* x, const void* up, int64_t n) {
  activateRow(f, dtype, out, x, up, n);
}
}  // namespace kvasir::cpu
