#pragma once

#include <cuda_runtime.h>

#include "core/tensor.h"

namespace kvasir::cuda {

// out[i, :] = x[ids[i] - start, :], zeros where that row does not exist. out [numRows, width], x [numTableRows, width], both with dense
// rows; ids int32 [numRows] contiguous. out has x's dtype, or float32 of a 16-bit x. Queues one kernel, which may
// start early where `overlap` says so (CudaStream::overlaps()).
void gather(cudaStream_t stream, const Tensor& out, const Tensor& x, const Tensor& ids, int64_t start, bool overlap);

}  // namespace kvasir::cuda
