// Mixture of experts on the CPU. What the ops mean stands in ops/moe.h.
#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void moeRouting(Pool& pool, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize);
void moeAlign(Pool& pool, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts);

// Each expert's pairs are one multiplication of the engine of linear layers; all experts share one job of the pool.
void moeLinear(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks);
void moeCombine(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts);

}  // namespace kvasir::cpu
