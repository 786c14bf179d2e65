// Linear layers and the packing of their weights.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Rearranges a weight in place into the layout that linear() is fastest with; it takes the same bytes. The caller marks the tensor as
// packed afterwards. weight: [outFeatures, inFeatures] contiguous, float32, float16 or bfloat16; outFeatures a multiple of 64 (add zero
// rows), inFeatures even for bfloat16.
void packLinear(Stream& stream, const Tensor& weight);

// out = x @ weight^T + bias, summed in float32 and rounded once. On the CPU, and on CUDA with GemmOptions::batchInvariant, a row of out
// depends on its row of x only, bit for bit: not on numTokens nor on its place.
//   x: [numTokens, inFeatures], out: [numTokens, outFeatures], rows may be strided; weight: [outFeatures, inFeatures] of x's dtype.
//   A packed weight may have more rows than out has columns: the surplus is padding. out is of x's dtype or float32, as is
//   bias: [outFeatures].
void linear(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);

}  // namespace kvasir::ops
