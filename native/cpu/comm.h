// What collectives compute on the CPU; moving the data is native/comm's.
#pragma once

#include "core/dtype.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

// out[i] = parts[0][i] + parts[1][i] + ... in this order, in float32, rounded once; n elements of a floating dtype. out may be one of the parts.
void sumParts(Pool& pool, DType dtype, void* out, const void* const* parts, int count, int64_t n);

}  // namespace kvasir::cpu
