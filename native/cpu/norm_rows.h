// Row kernels of RMSNorm per instruction set; float16 has only the portable one.
#pragma once

#include <cstdint>

#include "core/dtype.h"

#define KVASIR_NORM_ROWS                                                                                                      \
  void normRowF32(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps, bool gemma);       \
  void normRowBf16(bf16* out, const bf16* x, bf16* residual, const bf16* weight, int64_t n, float eps, bool gemma);

namespace kvasir::cpu {
namespace avx2 {
KVASIR_NORM_ROWS
}
namespace avx512 {
KVASIR_NORM_ROWS
}
}  // namespace kvasir::cpu
#undef KVASIR_NORM_ROWS
