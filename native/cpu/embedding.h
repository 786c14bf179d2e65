#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void embedding(Pool& pool, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart);

}  // namespace kvasir::cpu
