// The rotation of one token's heads per instruction set.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cpu {

// Rotates the first rotaryDim elements of `heads` heads in place; head h starts at element h * headStride of x.
// cosSin: rotaryDim / 2 cosines, then as many sines. neox pairs element i with i + rotaryDim / 2, else 2i with 2i + 1.
using RopeHeads = void (*)(DType dtype, void* x, int64_t headStride, int64_t heads, const float* cosSin, int64_t rotaryDim, bool neox);

namespace avx2 {
void ropeHeads(DType dtype, void* x, int64_t headStride, int64_t heads, const float* cosSin, int64_t rotaryDim, bool neox);
}
namespace avx512 {
void ropeHeads(DType dtype, void* x, int64_t headStride, int64_t heads, const float* cosSin, int64_t rotaryDim, bool neox);
}

}  // namespace kvasir::cpu
