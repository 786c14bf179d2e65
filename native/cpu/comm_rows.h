// The loop of sumParts per instruction set.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cpu {

// out[i] = the sum of parts[p][i] over p, for i in [begin, end).
using SumRow = void (*)(DType dtype, void* out, const void* const* parts, int count, int64_t begin, int64_t end);

namespace avx2 {
void sumRow(DType dtype, void* out, const void* const* parts, int count, int64_t begin, int64_t end);
}
namespace avx512 {
void sumRow(DType dtype, void* out, const void* const* parts, int count, int64_t begin, int64_t end);
}

}  // namespace kvasir::cpu
