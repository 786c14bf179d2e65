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
  bool overlap = false;  // GEMV only: start early and read the weight before the kernel before has ended (CudaStream::mayReadEarly)
};

// m is 1 or 2; x, weight and their rows 16-byte aligned, k a multiple of 16 bytes. `warps` (1, 2, 4, 8) share a feature.
void launchGemv(const GemmArgs& args, DType dtype, int warps, cudaStream_t stream);

enum class GatedActivation { Silu, Gelu, GeluTanh };

// act(gate) * up of a merged projection's rows [gate, up]: [m, n / 2], of the operands' dtype.
struct GatedOutput {
  GatedActivation activation;
  void* out;
  int64_t stride;
};

// Whether launchGatedGemv takes this number of warps: a block must hold a gate and its factor.
constexpr bool fusesGated(int warps) { return warps <= 4; }

// launchGemv and the activation of its output: both are stored, with the bits that two kernels would have stored. n is even, out is of the
// operands' dtype.
void launchGatedGemv(const GemmArgs& args, const GatedOutput& gated, DType dtype, int warps, cudaStream_t stream);

// float16 and bfloat16; aligned as above. Each element is summed in the order of k in steps of 16, whatever the tile.
void launchMmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream);

// Anything. Each element is summed in the order of k.
void launchFmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream);

// out += bias, for float32 outputs of the library's kernels, whose own bias must be float32 too. dtype: that of bias.
void launchAddBias(const GemmArgs& args, DType dtype, cudaStream_t stream);

}  // namespace kvasir::cuda
