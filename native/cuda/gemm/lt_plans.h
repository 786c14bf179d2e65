// Plans of cuBLASLt: which of its kernels computes a shape, asked and timed once and then kept.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/gemm/cublaslt.h"
#include "cuda/gemm/kernels.h"

namespace kvasir::cuda {

inline constexpr int64_t kTunedRows = 512;  // up to so many rows (decode steps) candidates are timed; above, the first one is within 5%

// One plan serves every m up to this one: exact for the smallest batches, then coarser.
constexpr int64_t bucketRows(int64_t m) {
  if (m <= 64) {
    int64_t rows = 1;
    while (rows < m) rows *= 2;
    return rows;
  }
  const int64_t step = m <= 512 ? 64 : m <= 4096 ? 256 : 1024;
  return (m + step - 1) / step * step;
}
static_assert(bucketRows(1) == 1 && bucketRows(3) == 4 && bucketRows(65) == 128 && bucketRows(512) == 512 && bucketRows(513) == 768 && bucketRows(5000) == 5120);

// In batch-invariant mode there are two kernels per weight, asked for these sizes: one for decode steps and small chunks, one beyond.
constexpr int64_t invariantRows(int64_t m) { return m <= kTunedRows ? 128 : 2048; }

struct LtSettings {
  bool batchInvariant = false;  // no split k, no timing: see invariantRows
  bool tune = true;
};

// What a shape got, for reports and for a cache of timings on disk, which would be read before candidates are timed.
struct LtChoice {
  int64_t rows, n, k;
  DType dtype;
  int candidate;       // its place in the library's list; 0 is the library's own first choice
  int candidates;
  float microseconds;  // 0 if not timed
};

class LtPlans {
 public:
  // workspace: device memory of its own, which no other stream uses.
  LtPlans(CublasLt& library, void* workspace, size_t workspaceBytes, LtSettings settings);
  ~LtPlans();
  LtPlans(const LtPlans&) = delete;
  LtPlans& operator=(const LtPlans&) = delete;

  // Queues out = x weight^T + bias. False, with nothing queued, if the library has no kernel for it, or if the stream is `capturing` and
  // the shape was not planned before. bias must be of out's type; pointers and rows of x, weight and out 16-byte aligned.
  bool run(const GemmArgs& args, DType dtype, cudaStream_t stream, bool capturing);

  std::vector<LtChoice> choices() const;

 private:
  struct Plan;
  using Key = std::array<int64_t, 7>;
  static Key keyOf(const GemmArgs& args, DType dtype, int64_t rows);
  Plan& plan(const GemmArgs& args, DType dtype, int64_t rows, cudaStream_t stream);
  std::unique_ptr<Plan> make(const GemmArgs& args, DType dtype, int64_t rows);
  std::vector<lt::Heuristic> candidates(const Plan& plan);
  void pickFastest(Plan& plan, const std::vector<lt::Heuristic>& candidates, const GemmArgs& args, cudaStream_t stream);
  lt::Status launch(Plan& plan, const lt::Algo& algo, const GemmArgs& args, cudaStream_t stream);

  CublasLt& library_;
  void* workspace_;
  size_t workspaceBytes_;
  LtSettings settings_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace kvasir::cuda
