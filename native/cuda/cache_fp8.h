#pragma once

#include "cuda/stream.h"

namespace kvasir::cuda {

// kvCacheWrite (ops/cache.h) to a float8_e4m3 cache.
void kvCacheWriteFp8(CudaStream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale);

}  // namespace kvasir::cuda
