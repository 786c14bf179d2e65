#include <cmath>
#include <limits>

#include "cpu/sampling.h"
#include "cpu/sampling_select.h"
#include "cpu/sampling_state.h"

namespace kvasir::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Temperatures below this are greedy, as in vLLM (_SAMPLING_EPS).
constexpr float kGreedyBelow = 1e-5f;

// A value below this cannot belong to the nucleus: the n tokens that have less than (1 - topP) / n of the mass each have less than
// 1 - topP of it together. The margin covers rounding.
float nucleusBound(const SamplingLoops& loops, const RowView& row, double topP, double* total) {
  *total = loops.sumExp(row.x, row.n, row.max, row.scale);
  return static_cast<float>(std::log(*total * (1 - topP) / static_cast<double>(row.n)) - 1e-2);
}

int32_t drawFiltered(const SamplingLoops& loops, RowView row, const SamplingRow& p, DrawKey key, Candidate* scratch) {
  const bool hasTopK = p.topK >= 1 && p.topK < static_cast<float>(row.n), hasTopP = p.topP < 1, hasMinP = p.minP > 0;
  if (hasMinP) row.threshold = std::log(p.minP);
  double total = 0;
  int64_t count = 0, position = 0;
  if (hasTopK) {
    count = selectTopK(loops, row, static_cast<int64_t>(p.topK), scratch);
  } else {
    if (hasTopP && !hasMinP) row.threshold = nucleusBound(loops, row, static_cast<double>(p.topP), &total);
    count = loops.collect(row.x, row.n, &position, row.max, row.scale, row.threshold, scratch, 0, row.n);
  }
  if (hasTopP) {
    loops.weigh(scratch, count);
    if (hasTopK || hasMinP) {
      total = 0;
      for (int64_t i = 0; i < count; ++i) total += static_cast<double>(scratch[i].weight);
    }
    count = selectTopP(scratch, count, static_cast<double>(p.topP) * total);
  }
  return loops.drawCandidate(scratch, count, key);
}

int32_t sampleRow(Pool& pool, int thread, const float* x, int64_t n, const SamplingRow& p, DrawKey key) {
  const SamplingLoops& loops = samplingLoops();
  const RowMax max = loops.rowMax(x, n);
  if (max.hasNan || max.value == kMinusInfinity) return -1;
  if (!(p.temperature >= kGreedyBelow) || std::isinf(max.value)) return static_cast<int32_t>(max.index);
  const RowView row{x, n, max.value, 1.0f / p.temperature, kMinusInfinity};
  const bool filtered = (p.topK >= 1 && p.topK < static_cast<float>(n)) || p.topP < 1 || p.minP > 0;
  if (!filtered) return loops.drawRow(x, n, row.max, row.scale, key);
  auto* scratch = static_cast<Candidate*>(pool.scratch(thread, n * static_cast<int64_t>(sizeof(Candidate))));
  return drawFiltered(loops, row, p, key, scratch);
}

}  // namespace

void sample(Pool& pool, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts) {
  checkIndices("sample", "rows", rows, params.dims[0], -1);
  int32_t* out = outIds.ptr<int32_t>();
  pool.run(logits.dims[0], [&](int64_t r, int thread) {
    const int64_t row = rows.ptr<int32_t>()[r];
    if (row < 0) {
      out[r] = -1;
      return;
    }
    const auto* seed = reinterpret_cast<const uint32_t*>(seeds.ptr<int32_t>() + row * seeds.strides[0]);
    const DrawKey key{seed[0], seed[1], static_cast<uint32_t>(positions.ptr<int32_t>()[r])};
    out[r] = sampleRow(pool, thread, logits.ptr<float>() + r * logits.strides[0], logits.dims[1], samplingRow(params, row), key);
  });
  if (!counts) return;
  for (int64_t r = 0; r < logits.dims[0]; ++r) {
    const int64_t row = rows.ptr<int32_t>()[r];
    if (row >= 0 && out[r] >= 0 && samplingRow(params, row).hasPenalties()) ++counts->ptr<int32_t>()[row * counts->strides[0] + out[r]];
  }
}

}  // namespace kvasir::cpu
