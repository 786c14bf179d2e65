// Row kernels of normalisation per instruction set; float16 has only the portable ones.
#pragma once

#include <cstdint>

#include "core/dtype.h"

#define KVASIR_NORM_ROWS(type, suffix)                                                                                                    \
  void normRow##suffix(type* out, const type* x, type* residual, const type* weight, int64_t n, float eps, bool gemma);                   \
  void layerNormRow##suffix(type* out, const type* x, type* residual, const type* weight, const type* bias, int64_t n, float eps);        \
  void addRow##suffix(type* out, const type* x, const type* y, int64_t n);

namespace kvasir::cpu {
namespace avx2 {
KVASIR_NORM_ROWS(float, F32)
KVASIR_NORM_ROWS(bf16, Bf16)
}  // namespace avx2
namespace avx512 {
KVASIR_NORM_ROWS(float, F32)
KVASIR_NORM_ROWS(bf16, Bf16)
}  // namespace avx512
}  // namespace kvasir::cpu
#undef KVASIR_NORM_ROWS
