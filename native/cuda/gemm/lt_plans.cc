#include "cuda/gemm/lt_plans.h"

#include <algorithm>
#include <limits>

#include "cuda/check.h"

namespace kvasir::cuda {

namespace {

constexpr int kCandidates = 8, kTimedRuns = 5;
constexpr float kWorthwhile = 0.98f;  // another kernel than the library's first choice must be faster by more than noise

int dataType(DType dtype) { return dtype == DType::Float32 ? lt::kReal32 : dtype == DType::Float16 ? lt::kReal16 : lt::kRealB16; }

class Event {
 public:
  Event() { KVASIR_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

struct LtPlans::Plan {
  explicit Plan(CublasLt& lib) : library(lib) {}
  ~Plan() {
    if (desc) library.matmulDescDestroy(desc);
    for (lt::Layout layout : {weight, x, out})
      if (layout) library.matrixLayoutDestroy(layout);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  CublasLt& library;
  lt::Desc desc = nullptr;
  lt::Layout weight = nullptr, x = nullptr, out = nullptr;
  int64_t columns = 0;  // of the layouts of x and out: the m of the last call
  bool usable = false;  // the library has a kernel
  lt::Algo algo{};
  LtChoice choice{};

  void setColumns(int64_t m) {
    if (columns == m) return;
    const uint64_t value = static_cast<uint64_t>(m);
    library.check(library.matrixLayoutSetAttribute(x, lt::kLayoutColumns, &value, sizeof value), "cublasLtMatrixLayoutSetAttribute");
    library.check(library.matrixLayoutSetAttribute(out, lt::kLayoutColumns, &value, sizeof value), "cublasLtMatrixLayoutSetAttribute");
    columns = m;
  }
};

LtPlans::LtPlans(CublasLt& library, void* workspace, size_t workspaceBytes, LtSettings settings)
    : library_(library), workspace_(workspace), workspaceBytes_(workspaceBytes), settings_(settings) {}

LtPlans::~LtPlans() = default;

LtPlans::Key LtPlans::keyOf(const GemmArgs& a, DType dtype, int64_t rows) {
  const int64_t flags = static_cast<int64_t>(dtype) * 4 + (a.outFloat ? 2 : 0) + (a.bias ? 1 : 0);
  return {rows, a.n, a.k, a.weightStride, a.xStride, a.outStride, flags};
}

// The library's matrices are column-major: a row-major [m, k] is its k x m. So out (n x m) = weight (k x n, transposed) * x (k x m), and
// the bias of a feature is that of a row of out.
std::unique_ptr<LtPlans::Plan> LtPlans::make(const GemmArgs& a, DType dtype, int64_t rows) {
  auto plan = std::make_unique<Plan>(library_);
  const int in = dataType(dtype), out = a.outFloat ? lt::kReal32 : in;
  const auto n = static_cast<uint64_t>(a.n), k = static_cast<uint64_t>(a.k), m = static_cast<uint64_t>(rows);
  library_.check(library_.matmulDescCreate(&plan->desc, lt::kCompute32, lt::kReal32), "cublasLtMatmulDescCreate");
  const int32_t transposed = lt::kTransposed;
  library_.check(library_.matmulDescSetAttribute(plan->desc, lt::kDescTransA, &transposed, sizeof transposed), "transA");
  const uint32_t epilogue = a.bias ? lt::kEpilogueBias : lt::kEpilogueDefault;
  library_.check(library_.matmulDescSetAttribute(plan->desc, lt::kDescEpilogue, &epilogue, sizeof epilogue), "epilogue");
  if (a.bias) library_.check(library_.matmulDescSetAttribute(plan->desc, lt::kDescBiasPointer, &a.bias, sizeof a.bias), "bias");
  library_.check(library_.matrixLayoutCreate(&plan->weight, in, k, n, a.weightStride), "cublasLtMatrixLayoutCreate");
  library_.check(library_.matrixLayoutCreate(&plan->x, in, k, m, a.xStride), "cublasLtMatrixLayoutCreate");
  library_.check(library_.matrixLayoutCreate(&plan->out, out, n, m, a.outStride), "cublasLtMatrixLayoutCreate");
  plan->columns = rows;
  plan->choice = {rows, a.n, a.k, dtype, 0, 0, 0.0f};
  return plan;
}

std::vector<lt::Heuristic> LtPlans::candidates(const Plan& plan) {
  lt::Preference preference = nullptr;
  library_.check(library_.matmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const uint64_t workspace = settings_.batchInvariant ? 0 : workspaceBytes_;
  const uint32_t reduction = settings_.batchInvariant ? lt::kReduceNone : lt::kReduceCompute, alignment = 16;
  lt::Status status = library_.matmulPreferenceSetAttribute(preference, lt::kPreferWorkspaceBytes, &workspace, sizeof workspace);
  if (status == 0) status = library_.matmulPreferenceSetAttribute(preference, lt::kPreferReductionMask, &reduction, sizeof reduction);
  for (int matrix = lt::kPreferAlignmentA; matrix <= lt::kPreferAlignmentD && status == 0; ++matrix)
    status = library_.matmulPreferenceSetAttribute(preference, matrix, &alignment, sizeof alignment);
  std::vector<lt::Heuristic> results(kCandidates);
  int count = 0;
  if (status == 0)
    status = library_.matmulAlgoGetHeuristic(library_.handle(), plan.desc, plan.weight, plan.x, plan.out, plan.out, preference, kCandidates, results.data(), &count);
  library_.matmulPreferenceDestroy(preference);
  if (status == lt::kNotSupported || status == lt::kInvalidValue) count = 0;  // no kernel for this shape, and not an error
  else library_.check(status, "cublasLtMatmulAlgoGetHeuristic");
  results.resize(static_cast<size_t>(count));
  std::erase_if(results, [&](const lt::Heuristic& h) { return h.state != 0 || h.workspaceSize > workspace; });
  return results;
}

lt::Status LtPlans::launch(Plan& plan, const lt::Algo& algo, const GemmArgs& a, cudaStream_t stream) {
  plan.setColumns(a.m);
  if (a.bias) library_.check(library_.matmulDescSetAttribute(plan.desc, lt::kDescBiasPointer, &a.bias, sizeof a.bias), "bias");
  const float one = 1, zero = 0;
  return library_.matmul(library_.handle(), plan.desc, &one, a.weight, plan.weight, a.x, plan.x, &zero, a.out, plan.out, a.out, plan.out, &algo,
                         workspace_, settings_.batchInvariant ? 0 : workspaceBytes_, stream);
}

// Times each candidate on the operands of this call. The workspace, larger than the L2 cache, is overwritten before each run, because in
// a model the weight comes from memory. The best of several runs counts: what disturbs a run only makes it longer.
void LtPlans::pickFastest(Plan& plan, const std::vector<lt::Heuristic>& candidates, const GemmArgs& a, cudaStream_t stream) {
  const Event begin, end;
  float first = 0, best = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (launch(plan, candidates[i].algo, a, stream) != 0) continue;
    float shortest = std::numeric_limits<float>::infinity();
    for (int run = 0; run < kTimedRuns; ++run) {
      KVASIR_CUDA(cudaMemsetAsync(workspace_, 0, workspaceBytes_, stream));
      KVASIR_CUDA(cudaEventRecord(begin, stream));
      library_.check(launch(plan, candidates[i].algo, a, stream), "cublasLtMatmul");
      KVASIR_CUDA(cudaEventRecord(end, stream));
      KVASIR_CUDA(cudaEventSynchronize(end));
      float milliseconds = 0;
      KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
      shortest = std::min(shortest, milliseconds);
    }
    if (i == 0) first = shortest;
    if (shortest >= best || (i > 0 && first > 0 && shortest > first * kWorthwhile)) continue;
    best = shortest;
    plan.algo = candidates[i].algo;
    plan.choice.candidate = static_cast<int>(i);
    plan.choice.microseconds = shortest * 1e3f;
  }
}

LtPlans::Plan& LtPlans::plan(const GemmArgs& a, DType dtype, int64_t rows, cudaStream_t stream) {
  std::unique_ptr<Plan>& slot = plans_[keyOf(a, dtype, rows)];
  if (slot) return *slot;
  auto made = make(a, dtype, rows);
  const std::vector<lt::Heuristic> found = candidates(*made);
  if (!found.empty()) {
    made->usable = true;
    made->algo = found[0].algo;
    made->choice.candidates = static_cast<int>(found.size());
    if (settings_.tune && !settings_.batchInvariant && a.m <= kTunedRows && found.size() > 1) pickFastest(*made, found, a, stream);
  }
  slot = std::move(made);
  return *slot;
}

bool LtPlans::run(const GemmArgs& a, DType dtype, cudaStream_t stream, bool capturing) {
  const int64_t bucket = settings_.batchInvariant ? invariantRows(a.m) : bucketRows(a.m);
  // A kernel asked for a bucket's largest m may refuse a smaller one: then that m is asked for by itself.
  for (const int64_t rows : {bucket, a.m}) {
    if (capturing) {
      const auto known = plans_.find(keyOf(a, dtype, rows));
      if (known == plans_.end() || !known->second) return false;
    }
    Plan& p = plan(a, dtype, rows, stream);
    if (!p.usable) return false;
    const lt::Status status = launch(p, p.algo, a, stream);
    if (status == 0) return true;
    if (status != lt::kNotSupported && status != lt::kInvalidValue) library_.check(status, "cublasLtMatmul");
  }
  return false;
}

std::vector<LtChoice> LtPlans::choices() const {
  std::vector<LtChoice> all;
  for (const auto& [key, plan] : plans_)
    if (plan && plan->usable) all.push_back(plan->choice);
  return all;
}

}  // namespace kvasir::cuda
