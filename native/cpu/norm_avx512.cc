#include <cstdint>

#include "core/dtype.h"
#include "cpu/norm_rows.h"

namespace kvasir::cpu {
namespace {
#include "cpu/norm_row.inc"
}
namespace avx512 {
void normRowF32(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps, bool gemma) {
  normRow(out, x, residual, weight, n, eps, gemma);
}
void normRowBf16(bf16* out, const bf16* x, bf16* residual, const bf16* weight, int64_t n, float eps, bool gemma) {
  normRow(out, x, residual, weight, n, eps, gemma);
}
}  // namespace avx512
}  // namespace kvasir::cpu
