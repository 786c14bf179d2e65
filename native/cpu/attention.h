#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void pagedAttention(Pool& pool, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale);

}  // namespace kvasir::cpu
