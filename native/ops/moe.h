// Mixture of experts: routing, and the multiplications of every token by the weights of its experts. A pair is one choice of one token:
// number t * topK + j for choice j of token t. No op needs to know on the host how many pairs an expert has, so that the whole layer can be
// captured in a graph:
//   moeRouting -> moeAlign -> moeLinear (gate and up) -> siluAndMul -> moeLinear (down) -> moeCombine
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

inline constexpr int64_t kMaxExperts = 1024;
inline constexpr int64_t kMaxExpertsPerToken = 32;

// The topK largest logits of each token, largest first and the lower index first among equals, and their softmax over all experts in
// float32; with `renormalize` divided by their sum. Ids are in range and distinct whatever the logits are (NaN too).
//   outWeights: float32 [numTokens, topK], outExperts: int32 [numTokens, topK], logits: [numTokens, numExperts], rows may be strided.
void moeRouting(Stream& stream, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize);

// Sorts pairs by expert into blocks of blockRows pairs of one expert each: row b of outBlocks is [expert, pair, pair, ...], -1 where a
// block has fewer pairs and, as the expert, in rows that are left over. Blocks ascend by expert; the order of an expert's pairs is not
// specified. Pairs whose expert is outside [0, numExperts) are in no block.
//   outBlocks: int32 [numBlocks, 1 + blockRows] with numBlocks >= (P + min(E, P) * (blockRows - 1)) / blockRows for P pairs and E experts;
//   experts: int32 [numTokens, topK].
void moeAlign(Stream& stream, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts);

// out[p] = x[p * numRows / numPairs] @ weights[expert of p]^T, summed in float32 and rounded once, for every pair p in `blocks`; the other
// rows of out stay. A row of out depends on its row of x only, bit for bit: not on the other pairs nor on the size of blocks.
//   out: [numPairs, outFeatures], x: [numRows, inFeatures], rows may be strided, numPairs a multiple of numRows: numRows is the number of
//   tokens (every choice of a token reads its row) or of pairs. weights: [numExperts, outFeatures or more, inFeatures] contiguous, of x's
//   dtype, packed by packLinear (as [numExperts * rows, inFeatures]) or not. out is of x's dtype or float32.
void moeLinear(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks);

// out[t] = sum over j of weights[t, j] * x[t * topK + j], in float32 in the order of j, without choices whose expert is outside
// [0, numExperts). out: [numTokens, hiddenSize], x: [numTokens * topK, hiddenSize], rows may be strided; weights: float32 and experts: int32
// [numTokens, topK].
void moeCombine(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts);

}  // namespace kvasir::ops
