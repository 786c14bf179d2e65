#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void kvCacheWrite(Pool& pool, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale);

}  // namespace kvasir::cpu
