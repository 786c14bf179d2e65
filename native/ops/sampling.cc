#include "ops/sampling.h"

#include "core/shape.h"
#include "cpu/sampling.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

constexpr int64_t kParamsPerRow = 8;
// What the CUDA kernels have shared memory for.
constexpr int64_t kMostTop = 512, kMostCandidates = 2048;

void checkCounts(Shapes& s, const Tensor& counts) {
  s.bind("counts", counts, {"maxNumSeqs", "vocabSize"}).dtype("counts", counts, DType::Int32).denseRows("counts", counts);
}

void checkLogits(Shapes& s, const Tensor& logits) {
  s.bind("logits", logits, {"numRows", "vocabSize"}).dtype("logits", logits, DType::Float32).denseRows("logits", logits);
  s.require(logits.dims[1] > 0 && logits.dims[1] <= INT32_MAX, "vocabSize must be from 1 to 2^31 - 1");
}

void checkIndexRow(Shapes& s, const char* name, const Tensor& t, const char* size) {
  s.bind(name, t, {size}).dtype(name, t, DType::Int32).contiguous(name, t);
}

void checkParams(Shapes& s, const Tensor& params) {
  s.bind("params", params, {"maxNumSeqs", "paramsPerRow"}).dtype("params", params, DType::Float32).denseRows("params", params);
  s.require(params.dims[1] == kParamsPerRow, "params must have 8 values per row");
}

// What drawing reads of its rows' requests.
void checkRequests(Shapes& s, const Tensor& outIds, const Tensor& params, const Tensor& seeds, const Tensor& positions, const Tensor& rows) {
  checkParams(s, params);
  checkIndexRow(s, "outIds", outIds, "numRows");
  checkIndexRow(s, "positions", positions, "numRows");
  checkIndexRow(s, "rows", rows, "numRows");
  s.bind("seeds", seeds, {"maxNumSeqs", "seedHalves"}).dtype("seeds", seeds, DType::Int32).denseRows("seeds", seeds);
  s.require(seeds.dims[1] == 2, "seeds must have 2 values per row");
}

// Pairs of a value and a token id, [numRows, 2 n].
void checkPairs(Shapes& s, const char* name, const Tensor& pairs) {
  s.bind(name, pairs, {"numRows", "pairWidth"}).dtype(name, pairs, DType::Int32).denseRows(name, pairs);
}

void checkRow(const char* op, const char* name, int64_t row, int64_t rows) {
  if (row < 0 || row >= rows)
    fail(kTensorError, "%s: %s is %lld, expected 0 to %lld", op, name, static_cast<long long>(row), static_cast<long long>(rows - 1));
}

void checkCounting(const char* op, const Tensor& counts, int64_t row, const Tensor& ids) {
  Shapes s(op);
  checkCounts(s, counts);
  checkIndexRow(s, "ids", ids, "numIds");
  checkRow(op, "row", row, counts.dims[0]);
}

}  // namespace

void samplingCountPrompt(Stream& stream, const Tensor& counts, int64_t row, const Tensor& ids) {
  checkCounting("samplingCountPrompt", counts, row, ids);
  KVASIR_LAUNCH(stream, samplingCountPrompt, counts, row, ids);
}

void samplingCountOutput(Stream& stream, const Tensor& counts, int64_t row, const Tensor& ids) {
  checkCounting("samplingCountOutput", counts, row, ids);
  KVASIR_LAUNCH(stream, samplingCountOutput, counts, row, ids);
}

void samplingPenalties(Stream& stream, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows) {
  Shapes s("samplingPenalties");
  checkLogits(s, logits);
  checkCounts(s, counts);
  checkParams(s, params);
  checkIndexRow(s, "rows", rows, "numRows");
  KVASIR_LAUNCH(stream, samplingPenalties, logits, counts, params, rows);
}

void samplingBias(Stream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values) {
  Shapes s("samplingBias");
  checkLogits(s, logits);
  checkIndexRow(s, "ids", ids, "numIds");
  s.bind("values", values, {"numIds"}).dtype("values", values, DType::Float32).contiguous("values", values);
  checkRow("samplingBias", "logitRow", logitRow, logits.dims[0]);
  KVASIR_LAUNCH(stream, samplingBias, logits, logitRow, ids, values);
}

void samplingMask(Stream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep) {
  Shapes s("samplingMask");
  checkLogits(s, logits);
  checkIndexRow(s, "ids", ids, "numIds");
  checkRow("samplingMask", "logitRow", logitRow, logits.dims[0]);
  KVASIR_LAUNCH(stream, samplingMask, logits, logitRow, ids, keep);
}

void samplingLogprobs(Stream& stream, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds,
                      const MaybeTensor& topLogprobs, const Tensor& logits, const Tensor& targets) {
  Shapes s("samplingLogprobs");
  checkLogits(s, logits);
  checkIndexRow(s, "targets", targets, "numRows");
  checkIndexRow(s, "outRank", outRank, "numRows");
  s.bind("outLogprob", outLogprob, {"numRows"}).dtype("outLogprob", outLogprob, DType::Float32).contiguous("outLogprob", outLogprob);
  s.require(topIds.has_value() == topLogprobs.has_value(), "topIds and topLogprobs must be given together");
  if (topIds) {
    s.bind("topIds", *topIds, {"numRows", "k"}).dtype("topIds", *topIds, DType::Int32).denseRows("topIds", *topIds);
    s.bind("topLogprobs", *topLogprobs, {"numRows", "k"}).dtype("topLogprobs", *topLogprobs, DType::Float32);
    s.denseRows("topLogprobs", *topLogprobs).require(s["k"] <= s["vocabSize"], "k must be at most vocabSize");
  }
  KVASIR_LAUNCH(stream, samplingLogprobs, outLogprob, outRank, topIds, topLogprobs, logits, targets);
}

void sample(Stream& stream, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts) {
  Shapes s("sample");
  checkLogits(s, logits);
  checkRequests(s, outIds, params, seeds, positions, rows);
  if (counts) checkCounts(s, *counts);
  KVASIR_LAUNCH(stream, sample, outIds, logits, params, seeds, positions, rows, counts);
}

void samplingTop(Stream& stream, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid) {
  Shapes s("samplingTop");
  checkLogits(s, logits);
  checkPairs(s, "out", out);
  s.require(out.dims[1] >= 2 && out.dims[1] <= 2 * kMostTop && out.dims[1] % 2 == 0, "out must have 1 to 512 pairs per row");
  s.require(numValid >= 0 && numValid <= logits.dims[1], "numValid must be from 0 to vocabSize");
  s.require(firstId >= 0 && firstId <= INT32_MAX - logits.dims[1], "firstId and the ids behind it must be from 0 to 2^31 - 1");
  KVASIR_LAUNCH(stream, samplingTop, out, logits, firstId, numValid);
}

void sampleTop(Stream& stream, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows) {
  Shapes s("sampleTop");
  checkPairs(s, "candidates", candidates);
  s.require(candidates.dims[1] >= 2 && candidates.dims[1] <= 2 * kMostCandidates && candidates.dims[1] % 2 == 0,
            "candidates must have 1 to 2048 pairs per row");
  checkRequests(s, outIds, params, seeds, positions, rows);
  KVASIR_LAUNCH(stream, sampleTop, outIds, candidates, params, seeds, positions, rows);
}

}  // namespace kvasir::ops
