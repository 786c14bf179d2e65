#include "cpu/rope_heads.h"
#include "cpu/vec.h"

namespace kvasir::cpu {
namespace {
#include "cpu/rope_head.inc"
}
void avx2::ropeHeads(DType dtype, void* x, int64_t headStride, int64_t heads, const float* cosSin, int64_t rotaryDim, bool neox) {
  rotateHeads(dtype, x, headStride, heads, cosSin, rotaryDim, neox);
}
}  // namespace kvasir::cpu
