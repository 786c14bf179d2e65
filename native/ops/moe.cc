#include "ops/moe.h"

#include <algorithm>

#include "core/shape.h"
#include "cpu/gemm.h"
#include "cpu/moe.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

void checkExpertCount(Shapes& s, int64_t numExperts) {
  s.require(numExperts >= 1 && numExperts <= kMaxExperts, "the number of experts must be from 1 to 1024");
}

}  // namespace

void moeRouting(Stream& stream, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize) {
  Shapes s("moeRouting");
  s.bind("logits", logits, {"numTokens", "numExperts"}).bind("outWeights", outWeights, {"numTokens", "topK"});
  s.bind("outExperts", outExperts, {"numTokens", "topK"}).floating("logits", logits).denseRows("logits", logits);
  s.dtype("outWeights", outWeights, DType::Float32).contiguous("outWeights", outWeights);
  s.dtype("outExperts", outExperts, DType::Int32).contiguous("outExperts", outExperts);
  checkExpertCount(s, s["numExperts"]);
  s.require(s["topK"] <= std::min(s["numExperts"], kMaxExpertsPerToken), "topK must be at most the number of experts, and at most 32");
  KVASIR_LAUNCH(stream, moeRouting, outWeights, outExperts, logits, renormalize);
}

void moeAlign(Stream& stream, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts) {
  Shapes s("moeAlign");
  s.bind("outBlocks", outBlocks, {"numBlocks", "1 + blockRows"}).bind("experts", experts, {"numTokens", "topK"});
  s.dtype("outBlocks", outBlocks, DType::Int32).contiguous("outBlocks", outBlocks);
  s.dtype("experts", experts, DType::Int32).contiguous("experts", experts);
  checkExpertCount(s, numExperts);
  const int64_t pairs = experts.numel(), blockRows = outBlocks.dim(1) - 1;
  s.require(blockRows >= 1, "outBlocks must have a column for the expert and at least one for a pair");
  s.require(pairs < int64_t{1} << 31, "there are too many pairs of tokens and experts");
  s.require(outBlocks.dim(0) >= (pairs + std::min(numExperts, pairs) * (blockRows - 1)) / blockRows,
            "outBlocks must have room for every way to spread the pairs over experts");
  KVASIR_LAUNCH(stream, moeAlign, outBlocks, experts, numExperts);
}

void moeLinear(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks) {
  Shapes s("moeLinear");
  s.bind("x", x, {"numRows", "inFeatures"}).bind("out", out, {"numPairs", "outFeatures"}).bind("weights", weights, {"numExperts", "", "inFeatures"});
  s.bind("blocks", blocks, {"numBlocks", "1 + blockRows"}).floating("x", x).sameDtype("weights", weights, "x", x);
  s.dtypeOneOf("out", out, {x.dtype, DType::Float32}).denseRows("x", x).denseRows("out", out).contiguous("weights", weights);
  s.dtype("blocks", blocks, DType::Int32).contiguous("blocks", blocks);
  checkExpertCount(s, s["numExperts"]);
  s.require(x.dim(0) == 0 ? out.dim(0) == 0 : out.dim(0) % x.dim(0) == 0, "the rows of out must be a multiple of those of x");
  s.require(out.dim(1) <= weights.dim(1), "out must not have more columns than the weight of an expert has rows");
  if (weights.layout == Layout::Packed) s.require(weights.dim(1) % cpu::kPackRows == 0, "packed weights must have a multiple of 64 rows per expert");
  KVASIR_LAUNCH(stream, moeLinear, out, x, weights, blocks);
}

void moeCombine(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts) {
  Shapes s("moeCombine");
  s.bind("out", out, {"numTokens", "hiddenSize"}).bind("x", x, {"numPairs", "hiddenSize"}).bind("weights", weights, {"numTokens", "topK"});
  s.bind("experts", experts, {"numTokens", "topK"}).floating("x", x).sameDtype("out", out, "x", x).denseRows("x", x).denseRows("out", out);
  s.dtype("weights", weights, DType::Float32).contiguous("weights", weights);
  s.dtype("experts", experts, DType::Int32).contiguous("experts", experts);
  s.require(s["numPairs"] == s["numTokens"] * s["topK"], "x must have a row for each choice of each token");
  checkExpertCount(s, numExperts);
  KVASIR_LAUNCH(stream, moeCombine, out, x, weights, experts, numExperts);
}

}  // namespace kvasir::ops
