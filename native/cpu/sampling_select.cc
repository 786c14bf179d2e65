#include "cpu/sampling_select.h"

#include <algorithm>

namespace kvasir::cpu {

namespace {

bool larger(const Candidate& a, const Candidate& b) { return a.value > b.value; }

// Moves the k largest and the ties of the k-th to the front; returns their number.
int64_t keepLargest(Candidate* candidates, int64_t count, int64_t k) {
  if (count <= k) return count;
  std::nth_element(candidates, candidates + k - 1, candidates + count, larger);
  const float last = candidates[k - 1].value;
  return std::partition(candidates + k, candidates + count, [last](const Candidate& c) { return c.value == last; }) - candidates;
}

float medianValue(const Candidate& a, const Candidate& b, const Candidate& c) {
  return std::max(std::min(a.value, b.value), std::min(std::max(a.value, b.value), c.value));
}

double massOf(const Candidate* begin, const Candidate* end) {
  double mass = 0;
  for (; begin != end; ++begin) mass += static_cast<double>(begin->weight);
  return mass;
}

}  // namespace

int64_t selectTopK(const SamplingLoops& loops, const RowView& row, int64_t k, Candidate* out) {
  int64_t position = 0, count = 0, limit = 2 * k + 1024;
  float threshold = row.threshold;
  while (position < row.n) {
    count = loops.collect(row.x, row.n, &position, row.max, row.scale, threshold, out, count, limit);
    if (position == row.n || count < k) continue;
    count = keepLargest(out, count, k);
    threshold = std::min_element(out, out + count, [](const Candidate& a, const Candidate& b) { return a.value < b.value; })->value;
    limit = std::max(2 * k + 1024, 2 * count);  // ties can be many: doubling keeps the work linear
  }
  return keepLargest(out, count, k);
}

int64_t sortTopK(const SamplingLoops& loops, const RowView& row, int64_t k, Candidate* out) {
  const int64_t all = selectTopK(loops, row, k, out), count = std::min(k, all);
  std::partial_sort(out, out + count, out + all,
                    [](const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); });
  return count;
}

int64_t selectTopP(Candidate* candidates, int64_t count, double mass) {
  Candidate *low = candidates, *high = candidates + count;
  double before = 0;  // weight of everything in front of low; all of it is kept and larger than what follows
  while (high - low > 1) {
    const float pivot = medianValue(low[0], low[(high - low) / 2], high[-1]);
    Candidate* equal = std::partition(low, high, [pivot](const Candidate& c) { return c.value > pivot; });
    Candidate* smaller = std::partition(equal, high, [pivot](const Candidate& c) { return c.value == pivot; });
    const double upToEqual = before + massOf(low, equal), upToSmaller = upToEqual + massOf(equal, smaller);
    if (equal != low && upToEqual >= mass) {
      high = equal;
    } else if (smaller == high || upToSmaller >= mass) {
      return smaller - candidates;
    } else {
      low = smaller;
      before = upToSmaller;
    }
  }
  return high - candidates;
}

}  // namespace kvasir::cpu
