#include <bit>
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

// The tokens that min-p, top-k and top-p leave; returns their number.
int64_t filterRow(const SamplingLoops& loops, RowView row, const SamplingRow& p, Candidate* scratch) {
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
  return count;
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
  return loops.drawCandidate(scratch, filterRow(loops, row, p, scratch), key);
}

// pairs [n]: bits of a value, token id.
int32_t samplePairs(Pool& pool, int thread, const int32_t* pairs, int64_t n, const SamplingRow& p, DrawKey key) {
  auto* scratch = static_cast<Candidate*>(pool.scratch(thread, n * static_cast<int64_t>(sizeof(Candidate) + sizeof(float))));
  auto* x = reinterpret_cast<float*>(scratch + n);
  float max = kMinusInfinity;
  int32_t first = -1;
  bool nan = false;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::bit_cast<float>(pairs[2 * i]);
    nan |= x[i] != x[i];
    if (!(x[i] > max) && !(x[i] == max && pairs[2 * i + 1] < first)) continue;
    max = x[i];
    first = pairs[2 * i + 1];
  }
  if (nan || first < 0) return -1;
  if (!(p.temperature >= kGreedyBelow) || std::isinf(max)) return first;
  const SamplingLoops& loops = samplingLoops();
  const int64_t count = filterRow(loops, {x, n, max, 1.0f / p.temperature, kMinusInfinity}, p, scratch);
  for (int64_t i = 0; i < count; ++i) scratch[i].id = pairs[2 * scratch[i].id + 1];  // noise is the token's
  return loops.drawCandidate(scratch, count, key);
}

// Calls draw(r, thread, params, key) -> token for each row that has a request, and writes what it gives.
template <class F>
void drawRows(const char* op, Pool& pool, const Tensor& outIds, const Tensor& params, const Tensor& seeds, const Tensor& positions, const Tensor& rows,
              F&& draw) {
  checkIndices(op, "rows", rows, params.dims[0], -1);
  int32_t* out = outIds.ptr<int32_t>();
  pool.run(rows.dims[0], [&](int64_t r, int thread) {
    const int64_t row = rows.ptr<int32_t>()[r];
    if (row < 0) {
      out[r] = -1;
      return;
    }
    const auto* seed = reinterpret_cast<const uint32_t*>(seeds.ptr<int32_t>() + row * seeds.strides[0]);
    out[r] = draw(r, thread, samplingRow(params, row), DrawKey{seed[0], seed[1], static_cast<uint32_t>(positions.ptr<int32_t>()[r])});
  });
}

}  // namespace

void sample(Pool& pool, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts) {
  drawRows("sample", pool, outIds, params, seeds, positions, rows, [&](int64_t r, int thread, const SamplingRow& p, DrawKey key) {
    return sampleRow(pool, thread, logits.ptr<float>() + r * logits.strides[0], logits.dims[1], p, key);
  });
  if (!counts) return;
  const int32_t* out = outIds.ptr<int32_t>();
  for (int64_t r = 0; r < logits.dims[0]; ++r) {
    const int64_t row = rows.ptr<int32_t>()[r];
    if (row >= 0 && out[r] >= 0 && samplingRow(params, row).hasPenalties()) ++counts->ptr<int32_t>()[row * counts->strides[0] + out[r]];
  }
}

void sampleTop(Pool& pool, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows) {
  drawRows("sampleTop", pool, outIds, params, seeds, positions, rows, [&](int64_t r, int thread, const SamplingRow& p, DrawKey key) {
    return samplePairs(pool, thread, candidates.ptr<int32_t>() + r * candidates.strides[0], candidates.dims[1] / 2, p, key);
  });
}

}  // namespace kvasir::cpu
