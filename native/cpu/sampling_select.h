// Exact top-k and top-p without sorting the vocabulary.
#pragma once

#include <cstdint>

#include "cpu/sampling_loops.h"

namespace kvasir::cpu {

// What a value (logit - max) * scale must reach to count at all.
struct RowView {
  const float* x;
  int64_t n;
  float max, scale, threshold;
};

// Gathers the k largest values of the row, and all that equal the k-th; in no order. Returns their number. k >= 1; out has room for n.
int64_t selectTopK(const SamplingLoops& loops, const RowView& row, int64_t k, Candidate* out);

// The same without ties of the k-th, in order: a larger value first, the lower id first among equals.
int64_t sortTopK(const SamplingLoops& loops, const RowView& row, int64_t k, Candidate* out);

// Keeps the candidates before which (among larger values) lies less than `mass` of weight; equal values stay or go together, and
// the largest always stay. Weights must be set. Reorders; returns the number kept, which lie in front.
int64_t selectTopP(Candidate* candidates, int64_t count, double mass);

}  // namespace kvasir::cpu
