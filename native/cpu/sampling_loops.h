// The passes over a row of logits, per instruction set.
#pragma once

#include <cstdint>

namespace kvasir::cpu {

// A token that may be sampled. value = (logit - max) * scale, weight = exp(value).
struct Candidate {
  float value;
  float weight;
  int32_t id;
};

struct RowMax {
  float value;
  int64_t index;  // the first that has the value
  bool hasNan;
};

// Random bits of a draw are Philox4x32-10(key = seed, counter = (16 * (id / 64) + id % 16, position, 0, 0)), word id / 16 % 4.
struct DrawKey {
  uint32_t seedLow, seedHigh, position;
};

struct SamplingLoops {
  RowMax (*rowMax)(const float* x, int64_t n);
  // Sum of exp((x - max) * scale); scale > 0, max finite.
  double (*sumExp)(const float* x, int64_t n, float max, float scale);
  // How many x[i] > value.
  int64_t (*countGreater)(const float* x, int64_t n, float value);
  // Appends {(x[i] - max) * scale, -, i} where that is >= threshold, from i = *position, until the end or count >= limit.
  // Moves *position behind the last element looked at and returns the new count. Weights are not written.
  int64_t (*collect)(const float* x, int64_t n, int64_t* position, float max, float scale, float threshold, Candidate* out, int64_t count,
                     int64_t limit);
  // Writes the weights.
  void (*weigh)(Candidate* candidates, int64_t count);
  // Gumbel-max over the whole row: the id with the largest (x - max) * scale + noise(key, id), the lowest on ties.
  int32_t (*drawRow)(const float* x, int64_t n, float max, float scale, DrawKey key);
  // The same over candidates, in any order.
  int32_t (*drawCandidate)(const Candidate* candidates, int64_t count, DrawKey key);
};

// The loops for the instruction set in use.
const SamplingLoops& samplingLoops();

namespace avx2 {
extern const SamplingLoops kSamplingLoops;
}
namespace avx512 {
extern const SamplingLoops kSamplingLoops;
}

}  // namespace kvasir::cpu
