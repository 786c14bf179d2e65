// Routing of tokens to experts, and the sum of what the experts gave.
#include "cpu/moe.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/gemm_job.h"

namespace kvasir::cpu {

namespace {

// One token: picks the largest logits one after the other. Of several NaN the first is taken, so there is always something to pick.
void routeToken(const float* logits, int64_t numExperts, int64_t topK, bool renormalize, float* weights, int32_t* experts) {
  float largest = logits[0];
  for (int64_t e = 1; e < numExperts; ++e) largest = std::max(largest, logits[e]);
  float sum = 0;
  for (int64_t e = 0; e < numExperts; ++e) sum += std::exp(logits[e] - largest);
  const auto taken = [&](int64_t expert, int64_t count) { return std::find(experts, experts + count, static_cast<int32_t>(expert)) != experts + count; };
  float chosen = 0;
  for (int64_t j = 0; j < topK; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < numExperts; ++e)
      if ((best < 0 || logits[e] > logits[best]) && !taken(e, j)) best = e;
    experts[j] = static_cast<int32_t>(best);
    weights[j] = std::exp(logits[best] - largest) / sum;
    chosen += weights[j];
  }
  if (!renormalize) return;
  for (int64_t j = 0; j < topK; ++j) weights[j] /= chosen;
}

}  // namespace

void moeRouting(Pool& pool, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize) {
  const int64_t numExperts = logits.dim(1), topK = outWeights.dim(1), size = elementSize(logits.dtype);
  const RowKernels row = rowKernels(isa());
  pool.forRange(logits.dim(0), std::max<int64_t>(1, 2048 / numExperts), [&](int64_t begin, int64_t end, int thread) {
    float* values = static_cast<float*>(pool.scratch(thread, numExperts * 4));
    for (int64_t t = begin; t < end; ++t) {
      row.widen(logits.dtype, logits.ptr<char>() + t * logits.stride(0) * size, numExperts, values);
      routeToken(values, numExperts, topK, renormalize, outWeights.ptr<float>() + t * topK, outExperts.ptr<int32_t>() + t * topK);
    }
  });
}

void moeAlign(Pool&, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts) {
  const int64_t pairs = experts.numel(), width = outBlocks.dim(1), blockRows = width - 1;
  const int32_t* ids = experts.ptr<int32_t>();
  int32_t* blocks = outBlocks.ptr<int32_t>();
  std::fill(blocks, blocks + outBlocks.numel(), -1);
  const auto known = [&](int32_t e) { return e >= 0 && e < numExperts; };
  std::vector<int64_t> counts(static_cast<size_t>(numExperts), 0), next(static_cast<size_t>(numExperts), 0);
  for (int64_t p = 0; p < pairs; ++p)
    if (known(ids[p])) ++counts[static_cast<size_t>(ids[p])];
  // next[e]: where the expert's next pair goes, counted in pairs from the first block.
  int64_t block = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    next[e] = block * blockRows;
    for (int64_t left = counts[e]; left > 0; left -= blockRows) blocks[block++ * width] = static_cast<int32_t>(e);
  }
  for (int64_t p = 0; p < pairs; ++p) {
    if (!known(ids[p])) continue;
    const int64_t at = next[static_cast<size_t>(ids[p])]++;
    blocks[at / blockRows * width + 1 + at % blockRows] = static_cast<int32_t>(p);
  }
}

void moeCombine(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts) {
  constexpr int64_t kPart = 512;  // columns summed at a time, in the first-level cache
  const int64_t hidden = out.dim(1), topK = weights.dim(1), size = elementSize(x.dtype), parts = (hidden + kPart - 1) / kPart;
  const RowKernels row = rowKernels(isa());
  pool.forRange(out.dim(0) * parts, std::max<int64_t>(1, 32 / topK), [&](int64_t begin, int64_t end, int) {
    alignas(64) float sum[kPart], value[kPart];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / parts, column = i % parts * kPart, n = std::min(kPart, hidden - column);
      std::fill(sum, sum + n, 0.0f);
      for (int64_t j = 0; j < topK; ++j) {
        const int32_t expert = experts.ptr<int32_t>()[t * topK + j];
        if (expert < 0 || expert >= numExperts) continue;
        const float weight = weights.ptr<float>()[t * topK + j];
        row.widen(x.dtype, x.ptr<char>() + ((t * topK + j) * x.stride(0) + column) * size, n, value);
        for (int64_t c = 0; c < n; ++c) sum[c] += weight * value[c];
      }
      row.store(sum, nullptr, n, out.dtype, out.ptr<char>() + (t * out.stride(0) + column) * size);
    }
  });
}

}  // namespace kvasir::cpu
