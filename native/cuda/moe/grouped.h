// The kernels of moeLinear. Each queues one launch and checks nothing: linear.cu chose it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/dependent_launch.cuh"

namespace kvasir::cuda {

// out[p] = x[p / choices] weights[expert]^T for the pairs p of every block [expert, pair, pair, ...] of `blocks` [numBlocks, 1 + blockRows];
// strides in elements. x and weights are of one dtype, out of it or float32. Sums are float32 in the order of k, rounded once.
struct GroupedArgs {
  const void* x;
  const void* weights;  // [numExperts, n or more, k]
  void* out;
  const int32_t* blocks;
  int64_t n, k;
  int64_t xStride, outStride, expertStride;
  int numBlocks, blockRows, numExperts, numPairs, choices;
  bool outFloat;
  bool pairStores;  // two neighbouring columns from an even one on may be stored at once
};

// float16 and bfloat16; x, weights and their rows 16-byte aligned, k a multiple of 8; blockRows 16, 64 or 128.
void launchGroupedMma(const GroupedArgs& args, DType dtype, Chain chain);

// Any type and alignment; blockRows up to 16, or a multiple of 64.
void launchGroupedFma(const GroupedArgs& args, DType dtype, Chain chain);

}  // namespace kvasir::cuda
