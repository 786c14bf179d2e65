#include <bit>
#include <limits>

#include "cpu/sampling.h"
#include "cpu/sampling_select.h"

namespace kvasir::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Place i of a row of pairs.
void writePair(int32_t* pairs, int64_t i, float value, int64_t id) {
  pairs[2 * i] = std::bit_cast<int32_t>(value);
  pairs[2 * i + 1] = value == kMinusInfinity ? -1 : static_cast<int32_t>(id);
}

// The k largest of x[0, n) as pairs; returns how many there are. Without NaN in x.
int64_t writeLargest(Pool& pool, int thread, const float* x, int64_t n, int64_t firstId, int32_t* pairs, int64_t k) {
  auto* scratch = static_cast<Candidate*>(pool.scratch(thread, n * static_cast<int64_t>(sizeof(Candidate))));
  const int64_t count = sortTopK(samplingLoops(), {x, n, 0.0f, 1.0f, kMinusInfinity}, k, scratch);
  for (int64_t i = 0; i < count; ++i) writePair(pairs, i, scratch[i].value, firstId + scratch[i].id);
  return count;
}

}  // namespace

void samplingTop(Pool& pool, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid) {
  const int64_t k = out.dims[1] / 2;
  pool.run(logits.dims[0], [&](int64_t r, int thread) {
    const float* x = logits.ptr<float>() + r * logits.strides[0];
    int32_t* pairs = out.ptr<int32_t>() + r * out.strides[0];
    const RowMax max = samplingLoops().rowMax(x, numValid);
    int64_t count = 1;
    if (max.hasNan) writePair(pairs, 0, std::numeric_limits<float>::quiet_NaN(), -1);
    else if (k == 1) writePair(pairs, 0, max.value, firstId + max.index);
    else count = writeLargest(pool, thread, x, numValid, firstId, pairs, k);
    for (int64_t i = count; i < k; ++i) writePair(pairs, i, kMinusInfinity, -1);
  });
}

}  // namespace kvasir::cpu
