#include <cmath>
#include <limits>

#include "cpu/sampling.h"
#include "cpu/sampling_select.h"

namespace kvasir::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The k largest logits of the row, the lower id first among equals; unused places get id -1.
void writeTop(const SamplingLoops& loops, const float* x, int64_t n, double logSumExp, Candidate* scratch, int32_t* ids, float* logprobs,
              int64_t k) {
  const RowView row{x, n, 0.0f, 1.0f, kMinusInfinity};
  const int64_t count = sortTopK(loops, row, k, scratch);
  for (int64_t i = 0; i < k; ++i) {
    ids[i] = i < count ? scratch[i].id : -1;
    logprobs[i] = i < count ? static_cast<float>(static_cast<double>(scratch[i].value) - logSumExp) : kNan;
  }
}

}  // namespace

void samplingLogprobs(Pool& pool, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds, const MaybeTensor& topLogprobs,
                      const Tensor& logits, const Tensor& targets) {
  const int64_t n = logits.dims[1], k = topIds ? topIds->dims[1] : 0;
  const SamplingLoops& loops = samplingLoops();
  pool.run(logits.dims[0], [&](int64_t r, int thread) {
    const float* x = logits.ptr<float>() + r * logits.strides[0];
    const RowMax max = loops.rowMax(x, n);
    const bool bad = max.hasNan || std::isinf(max.value);
    const double logSumExp = bad ? static_cast<double>(kNan) : static_cast<double>(max.value) + std::log(loops.sumExp(x, n, max.value, 1.0f));
    const int32_t target = targets.ptr<int32_t>()[r];
    const bool known = target >= 0 && target < n;
    outLogprob.ptr<float>()[r] = known ? static_cast<float>(static_cast<double>(x[target]) - logSumExp) : kNan;
    outRank.ptr<int32_t>()[r] = known ? static_cast<int32_t>(1 + loops.countGreater(x, n, x[target])) : 0;
    if (k == 0) return;
    auto* scratch = static_cast<Candidate*>(pool.scratch(thread, n * static_cast<int64_t>(sizeof(Candidate))));
    writeTop(loops, x, n, logSumExp, scratch, topIds->ptr<int32_t>() + r * topIds->strides[0],
             topLogprobs->ptr<float>() + r * topLogprobs->strides[0], k);
  });
}

}  // namespace kvasir::cpu
