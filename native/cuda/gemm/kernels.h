// The kernels of this library for linear layers. Each queues one launch and checks nothing: linear.cu chose it by choose.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cuda {

// out[m, n] = x[m, k] weight[n, k]^T + bias[n]; strides in elements from row to row. x and weight are of one dtype; out and bias are of
// it too, or float32. Sums are float32, rounded once.
struct GemmArgs {
  const void* x;
  const void* weight;
  const void* bias;  // may be null
  void* out;
  int64_t m, n, k;
  int64_t xStride, weightStride, outStride;
  bool biasFloat, outFloat;
};

// m is 1 or 2; x, weight and their rows 16-byte aligned, k a multiple of 16 bytes. `warps` (1, 2, 4, 8) share a feature.
void launchGemv(const GemmArgs& args, DType dtype, int warps, cudaStream_t stream);

// float16 and bfloat16; aligned as above. Each element is summed in the order of k in steps of 16, whatever the tile.
void launchMmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream);

// Anything. Each element is summed in the order of k.
void launchFmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream);

// out += bias, for float32 outputs of the library's kernels, whose own bias must be float32 too. dtype: that of bias.
void launchAddBias(const GemmArgs& args, DType dtype, cudaStream_t stream);

}  // namespace kvasir::cuda
