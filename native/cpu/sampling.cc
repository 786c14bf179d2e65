#include "cpu/sampling.h"

#include <algorithm>
#include <limits>

#include "cpu/sampling_state.h"

namespace kvasir::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void penalizeRow(float* logits, const int32_t* counts, int64_t vocab, const SamplingRow& p) {
  const auto penalize = [&](int64_t i) {
    if (counts[i] == 0) return;
    const auto outputs = static_cast<float>(counts[i] & (kPromptBit - 1));
    float x = logits[i] > 0 ? logits[i] / p.repetition : logits[i] * p.repetition;
    if (outputs > 0) x = x - p.frequency * outputs - p.presence;
    logits[i] = x;
  };
  int64_t i = 0;
  for (; i + 16 <= vocab; i += 16) {  // nearly all blocks hold no seen token
    int32_t seen = 0;
    for (int j = 0; j < 16; ++j) seen |= counts[i + j];
    if (seen)
      for (int j = 0; j < 16; ++j) penalize(i + j);
  }
  for (; i < vocab; ++i) penalize(i);
}

}  // namespace

void samplingCountPrompt(Pool&, const Tensor& counts, int64_t row, const Tensor& ids) {
  checkIndices("samplingCountPrompt", "ids", ids, counts.dims[1], 0);
  int32_t* target = counts.ptr<int32_t>() + row * counts.strides[0];
  std::fill_n(target, counts.dims[1], 0);
  for (int64_t i = 0; i < ids.dims[0]; ++i) target[ids.ptr<int32_t>()[i]] = kPromptBit;
}

void samplingCountOutput(Pool&, const Tensor& counts, int64_t row, const Tensor& ids) {
  checkIndices("samplingCountOutput", "ids", ids, counts.dims[1], 0);
  int32_t* target = counts.ptr<int32_t>() + row * counts.strides[0];
  for (int64_t i = 0; i < ids.dims[0]; ++i) ++target[ids.ptr<int32_t>()[i]];
}

void samplingPenalties(Pool& pool, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows) {
  checkIndices("samplingPenalties", "rows", rows, counts.dims[0], -1);
  pool.run(logits.dims[0], [&](int64_t r, int) {
    const int64_t row = rows.ptr<int32_t>()[r];
    if (row < 0 || !samplingRow(params, row).hasPenalties()) return;
    penalizeRow(logits.ptr<float>() + r * logits.strides[0], counts.ptr<int32_t>() + row * counts.strides[0], logits.dims[1],
                samplingRow(params, row));
  });
}

void samplingBias(Pool&, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values) {
  checkIndices("samplingBias", "ids", ids, logits.dims[1], 0);
  float* x = logits.ptr<float>() + logitRow * logits.strides[0];
  for (int64_t i = 0; i < ids.dims[0]; ++i) x[ids.ptr<int32_t>()[i]] += values.ptr<float>()[i];
}

void samplingMask(Pool& pool, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep) {
  checkIndices("samplingMask", "ids", ids, logits.dims[1], 0);
  float* x = logits.ptr<float>() + logitRow * logits.strides[0];
  const int32_t* id = ids.ptr<int32_t>();
  const int64_t n = ids.dims[0];
  if (!keep) {
    for (int64_t i = 0; i < n; ++i) x[id[i]] = kMinusInfinity;
    return;
  }
  auto* kept = static_cast<float*>(pool.scratch(0, (n + 1) * static_cast<int64_t>(sizeof(float))));
  for (int64_t i = 0; i < n; ++i) kept[i] = x[id[i]];
  std::fill_n(x, logits.dims[1], kMinusInfinity);
  for (int64_t i = 0; i < n; ++i) x[id[i]] = kept[i];
}

}  // namespace kvasir::cpu
