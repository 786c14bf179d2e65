#include "cuda/gemm/lt_plans.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "cuda/check.h"

namespace kvasir::cuda {

namespace {

constexpr int kCandidates = 8, kTimedRuns = 5;
constexpr float kWorthwhile = 0.98f;  // another kernel than the library's first choice must be faster by more than noise

int dataType(DType dtype) {
  switch (dtype) {
    case DType::Float32: return lt::kReal32;
    case DType::Float16: return lt::kReal16;
    case DType::Float8E4M3: return lt::kReal8E4M3;
    default: return lt::kRealB16;
  }
}

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

LtPlans::LtPlans(CublasLt& library, void* workspace, size_t workspaceBytes, LtSettings settings, PlanFile* file)
    : library_(library), workspace_(workspace), workspaceBytes_(workspaceBytes), settings_(settings), file_(file) {}

LtPlans::~LtPlans() = default;

PlanKey LtPlans::keyOf(const GemmArgs& a, DType dtype, int64_t rows) {
  const int64_t flags = dataType(dtype) * 4 + (a.outFloat ? 2 : 0) + (a.bias ? 1 : 0);
  return {rows, a.n, a.k, a.weightStride, a.xStride, a.outStride, flags};
}

// The library's matrices are column-major: a row-major [m, k] is its k x m. So out (n x m) = weight (k x n, transposed) * x (k x m), and
// the bias of a feature is that of a row of out.
std::unique_ptr<LtPlans::Plan> LtPlans::make(const GemmArgs& a, DType dtype, int64_t rows) {
  auto plan = std::make_unique<Plan>(library_);
  const int in = dataType(dtype), out = a.outFloat ? lt::kReal32 : dtype == DType::Float8E4M3 ? lt::kRealB16 : in;
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
  plan->choice = {rows, a.n, a.k, dtype, 0, 0, 0.0f, false};
  return plan;
}

std::vector<lt::Heuristic> LtPlans::candidates(const Plan& plan) {
  lt::Preference preference = nullptr;
  library_.check(library_.matmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const uint64_t workspace = workspaceBytes();
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

// Whether an algorithm takes the plan's problem with the workspace that there is.
bool LtPlans::fits(const Plan& plan, const lt::Algo& algo) {
  lt::Heuristic result{};
  const lt::Status status =
      library_.matmulAlgoCheck(library_.handle(), plan.desc, plan.weight, plan.x, plan.out, plan.out, &algo, &result);
  return status == 0 && result.workspaceSize <= workspaceBytes();
}

lt::Status LtPlans::launch(Plan& plan, const lt::Algo& algo, const GemmArgs& a, cudaStream_t stream) {
  plan.setColumns(a.m);
  if (a.bias) library_.check(library_.matmulDescSetAttribute(plan.desc, lt::kDescBiasPointer, &a.bias, sizeof a.bias), "bias");
  const float one = 1, zero = 0;
  return library_.matmul(library_.handle(), plan.desc, &one, a.weight, plan.weight, a.x, plan.x, &zero, a.out, plan.out, a.out, plan.out, &algo,
                         workspace_, workspaceBytes(), stream);
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

// Takes an earlier process's choice if the library still does.
bool LtPlans::restore(Plan& plan, const PlanKey& key) {
  const StoredPlan* stored = file_ ? file_->find(key) : nullptr;
  if (!stored) return false;
  std::copy(stored->algorithm.begin(), stored->algorithm.end(), plan.algo.data);
  if (!fits(plan, plan.algo)) return false;
  plan.usable = true;
  plan.choice.candidate = stored->candidate;
  plan.choice.candidates = stored->candidates;
  plan.choice.microseconds = stored->microseconds;
  plan.choice.stored = true;
  return true;
}

void LtPlans::choose(Plan& plan, const PlanKey& key, const GemmArgs& a, cudaStream_t stream) {
  const std::vector<lt::Heuristic> found = candidates(plan);
  if (found.empty()) return;
  plan.usable = true;
  plan.algo = found[0].algo;
  plan.choice.candidates = static_cast<int>(found.size());
  if (!settings_.tune || a.m > kTunedRows || found.size() == 1) return;
  pickFastest(plan, found, a, stream);
  if (!file_ || plan.choice.microseconds <= 0) return;
  StoredPlan stored{{}, plan.choice.candidate, plan.choice.candidates, plan.choice.microseconds};
  std::copy(std::begin(plan.algo.data), std::end(plan.algo.data), stored.algorithm.begin());
  file_->add(key, stored);
}

// The kernel of a weight for every number of rows. It is chosen for contiguous rows whatever the strides of this call are, because those
// of a single row may differ from those of many.
const std::optional<lt::Algo>& LtPlans::pinned(const GemmArgs& a, DType dtype) {
  const std::array<int64_t, 3> key = {a.n, a.k, keyOf(a, dtype, 0).back()};
  if (const auto known = pinned_.find(key); known != pinned_.end()) return known->second;
  GemmArgs contiguous = a;
  contiguous.xStride = contiguous.weightStride = a.k;
  contiguous.outStride = (a.n + 7) / 8 * 8;  // rows of 16 bytes
  const auto plan = make(contiguous, dtype, kInvariantRows);
  std::optional<lt::Algo> choice;
  for (const lt::Heuristic& candidate : candidates(*plan)) {
    const bool takesAll = std::ranges::all_of(kInvariantChecks, [&](int64_t rows) {
      plan->setColumns(rows);
      return fits(*plan, candidate.algo);
    });
    if (!takesAll) continue;
    choice = candidate.algo;
    break;
  }
  return pinned_[key] = choice;
}

// The plan for up to `rows` rows; null if it is not known and cannot be made now.
LtPlans::Plan* LtPlans::plan(const GemmArgs& a, DType dtype, int64_t rows, cudaStream_t stream, bool capturing) {
  const PlanKey key = keyOf(a, dtype, rows);
  if (const auto known = plans_.find(key); known != plans_.end()) return known->second.get();
  if (capturing) return nullptr;  // work to be timed would become part of the graph
  auto made = make(a, dtype, rows);
  if (!restore(*made, key)) choose(*made, key, a, stream);
  return (plans_[key] = std::move(made)).get();
}

bool LtPlans::run(const GemmArgs& a, DType dtype, cudaStream_t stream, bool capturing) {
  if (settings_.batchInvariant) return runPinned(a, dtype, stream);
  // A kernel asked for a bucket's largest m may refuse a smaller one: then that m is asked for by itself.
  for (const int64_t rows : {bucketRows(a.m), a.m}) {
    Plan* p = plan(a, dtype, rows, stream, capturing);
    if (!p || !p->usable) return false;
    const lt::Status status = launch(*p, p->algo, a, stream);
    if (status == 0) return true;
    if (status != lt::kNotSupported && status != lt::kInvalidValue) library_.check(status, "cublasLtMatmul");
  }
  return false;
}

// Nothing is timed here, so that it is the same while a graph is captured.
bool LtPlans::runPinned(const GemmArgs& a, DType dtype, cudaStream_t stream) {
  std::unique_ptr<Plan>& slot = plans_[keyOf(a, dtype, kInvariantRows)];
  if (!slot) {
    const std::optional<lt::Algo>& algo = pinned(a, dtype);
    auto made = make(a, dtype, kInvariantRows);
    made->usable = algo.has_value();
    if (algo) made->algo = *algo;
    slot = std::move(made);
  }
  if (!slot->usable) return false;
  library_.check(launch(*slot, slot->algo, a, stream), "cublasLtMatmul");
  return true;
}

std::vector<LtChoice> LtPlans::choices() const {
  std::vector<LtChoice> all;
  for (const auto& [key, plan] : plans_)
    if (plan && plan->usable) all.push_back(plan->choice);
  return all;
}

}  // namespace kvasir::cuda
