// Plans of cuBLASLt: which of its kernels computes a shape, asked and timed once and then kept, on disk too.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/gemm/cublaslt.h"
#include "cuda/gemm/kernels.h"
#include "cuda/gemm/plan_file.h"

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

// In batch-invariant mode there is one kernel per weight, the library's choice for this many rows: its tiles suit decode steps, the
// slowest of all, and prompts pay for them. It must take all these numbers of rows, and so any between.
inline constexpr int64_t kInvariantRows = 128;
inline constexpr int64_t kInvariantChecks[] = {1, 16, 128, 1024, 8192};

struct LtSettings {
  bool batchInvariant = false;  // no split k, no timing, one kernel per weight
  bool tune = true;
};

// What a shape got, for reports.
struct LtChoice {
  int64_t rows, n, k;
  DType dtype;
  int candidate;       // its place in the library's list; 0 is the library's own first choice
  int candidates;
  float microseconds;  // 0 if not timed
  bool stored;         // timed by an earlier process
};

class LtPlans {
 public:
  // workspace: device memory of its own, which no other stream uses. file: timings of earlier processes, or null.
  LtPlans(CublasLt& library, void* workspace, size_t workspaceBytes, LtSettings settings, PlanFile* file = nullptr);
  ~LtPlans();
  LtPlans(const LtPlans&) = delete;
  LtPlans& operator=(const LtPlans&) = delete;

  // Queues out = x weight^T + bias. False, with nothing queued, if the library has no kernel for it, or if the stream is `capturing` and
  // the shape was not planned before. In batch-invariant mode the answer depends on n, k and the types only, and what the library then
  // refuses is an error. bias must be of out's type; pointers and rows of x, weight and out 16-byte aligned. float8_e4m3 operands have no
  // scales, and give float32 or bfloat16.
  bool run(const GemmArgs& args, DType dtype, cudaStream_t stream, bool capturing);

  std::vector<LtChoice> choices() const;

 private:
  struct Plan;
  using Pinned = std::map<std::array<int64_t, 3>, std::optional<lt::Algo>>;  // n, k and flags
  static PlanKey keyOf(const GemmArgs& args, DType dtype, int64_t rows);
  size_t workspaceBytes() const { return settings_.batchInvariant ? 0 : workspaceBytes_; }
  Plan* plan(const GemmArgs& args, DType dtype, int64_t rows, cudaStream_t stream, bool capturing);
  std::unique_ptr<Plan> make(const GemmArgs& args, DType dtype, int64_t rows);
  std::vector<lt::Heuristic> candidates(const Plan& plan);
  bool fits(const Plan& plan, const lt::Algo& algo);
  bool restore(Plan& plan, const PlanKey& key);
  void choose(Plan& plan, const PlanKey& key, const GemmArgs& args, cudaStream_t stream);
  void pickFastest(Plan& plan, const std::vector<lt::Heuristic>& candidates, const GemmArgs& args, cudaStream_t stream);
  const std::optional<lt::Algo>& pinned(const GemmArgs& args, DType dtype);
  bool runPinned(const GemmArgs& args, DType dtype, cudaStream_t stream);
  lt::Status launch(Plan& plan, const lt::Algo& algo, const GemmArgs& args, cudaStream_t stream);

  CublasLt& library_;
  void* workspace_;
  size_t workspaceBytes_;
  LtSettings settings_;
  PlanFile* file_;
  std::map<PlanKey, std::unique_ptr<Plan>> plans_;
  Pinned pinned_;
};

}  // namespace kvasir::cuda
