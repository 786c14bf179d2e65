#pragma once

#include "core/tensor.h"
#include "cuda/pending.h"

namespace kvasir::cuda {

// Whether a cache write of k and v may join a rope that waits: it stores the keys that were rotated, and the values are no part of what
// is rotated.
bool joinsRope(const PendingRope& op, const Tensor& kvCache, const Tensor& k, const Tensor& v);

// The rope and the cache write of its k in one kernel. k holds the rotated keys afterwards, as it would after the rope alone.
void ropeKvCacheWrite(CudaStream& stream, const PendingRope& op, const Tensor& kvCache, const Tensor& v, const Tensor& slotMapping);

}  // namespace kvasir::cuda
