// What linear layers keep per stream: the library's handle, its plans and its workspace.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/gemm/choose.h"
#include "cuda/gemm/lt_plans.h"

namespace kvasir::cuda {

class CudaStream;

struct GemmOptions {
  bool useCublasLt = true;
  std::string cublasLtPath = {};  // a file or folder instead of the usual places
  // Each row of a result is the same bit for bit whatever the batch: k is never split, and one kernel computes a weight whatever the
  // number of rows (GEMV and the library's kernels otherwise take turns, and the library splits k for small batches). Costs speed.
  bool batchInvariant = false;
  bool tune = true;  // time the library's candidates when a shape is first seen, outside graph capture
  std::string planFolder = {};  // where timings are kept for other processes; empty: nowhere
};

class GemmContext {
 public:
  explicit GemmContext(CudaStream& stream);
  ~GemmContext();  // the stream must still be there
  GemmContext(const GemmContext&) = delete;
  GemmContext& operator=(const GemmContext&) = delete;

  // Forgets all plans. Graphs captured before keep the kernels they were captured with.
  void configure(GemmOptions options);
  const GemmOptions& options() const { return options_; }

  // Queues out [m, n] = x [m, k] weight [>= n, k]^T + bias on the stream, see cuda::linear.
  void linear(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);
  // The operands for launchGemv(), if that is the path that linear() would take; they may be launched later.
  std::optional<GemmArgs> gemv(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);
  // Whether linearFp8() can be called for such a problem. The library is loaded, unless a graph is captured: a model runs once before.
  bool takesFp8(const GemmArgs& args);
  // Queues out [m, n] = x [m, k] weight [n, k]^T of float8_e4m3 codes with the library; out is bfloat16 or (outFloat) float32. False, with
  // nothing queued, if it has no kernel for it. No bias.
  bool linearFp8(const GemmArgs& args);
  // The path that linear() would take.
  GemmPath path(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);

  // Whether the library is in use and from where, or where it was looked for; and where timings are kept. Loads the library if that has
  // not happened yet.
  std::string report();
  std::vector<LtChoice> choices() const { return plans_ ? plans_->choices() : std::vector<LtChoice>(); }

 private:
  struct Problem;
  Problem problem(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) const;
  GemmPath choose(const Problem& problem, bool capturing);
  bool runCublasLt(const Problem& problem, bool capturing);
  void start();
  void makePlans();
  std::unique_ptr<PlanFile> openPlanFile() const;

  CudaStream& stream_;
  GemmOptions options_;
  bool started_ = false;
  bool hasFp8_ = false;  // the device multiplies float8_e4m3
  std::string report_;
  std::unique_ptr<CublasLt> library_;
  void* workspace_ = nullptr;
  std::unique_ptr<PlanFile> planFile_;
  std::unique_ptr<LtPlans> plans_;  // uses all of the above
};

}  // namespace kvasir::cuda
