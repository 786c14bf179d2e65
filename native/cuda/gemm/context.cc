#include "cuda/gemm/context.h"

#include <algorithm>

#include "cuda/stream.h"

namespace kvasir::cuda {

namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kWorkspaceBytes = 64 << 20;  // more than the library asks for, and more than the L2 cache: see pickFastest

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kAlignment == 0; }

bool isCapturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  KVASIR_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

struct GemmContext::Problem {
  GemmArgs args;
  DType dtype;
  DType biasType;
  bool inputsAligned;
  bool cublasLtTakesIt;  // outputs and bias are as the library wants them
};

GemmContext::GemmContext(CudaStream& stream) : stream_(stream) {}

GemmContext::~GemmContext() {
  plans_.reset();
  if (workspace_) stream_.deallocate(workspace_, kWorkspaceBytes);
}

void GemmContext::configure(GemmOptions options) {
  const bool sameLibrary = options.useCublasLt == options_.useCublasLt && options.cublasLtPath == options_.cublasLtPath;
  options_ = std::move(options);
  plans_.reset();
  planFile_.reset();
  if (sameLibrary) {
    if (library_) makePlans();
    return;
  }
  library_.reset();
  started_ = false;
}

void GemmContext::start() {
  if (started_) return;
  if (options_.useCublasLt) {
    KVASIR_CUDA(cudaSetDevice(stream_.ordinal()));
    library_ = CublasLt::load(options_.cublasLtPath, report_);
    if (library_) makePlans();
    int major = 0, minor = 0;
    KVASIR_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, stream_.ordinal()));
    KVASIR_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, stream_.ordinal()));
    hasFp8_ = major * 10 + minor >= 89;
  } else {
    report_ = "cuBLASLt is switched off: own kernels are used";
  }
  started_ = true;
}

void GemmContext::makePlans() {
  if (!workspace_) workspace_ = stream_.allocate(kWorkspaceBytes);
  planFile_ = openPlanFile();
  plans_ = std::make_unique<LtPlans>(*library_, workspace_, kWorkspaceBytes, LtSettings{options_.batchInvariant, options_.tune}, planFile_.get());
}

// Null where nothing is timed.
std::unique_ptr<PlanFile> GemmContext::openPlanFile() const {
  if (options_.planFolder.empty() || !options_.tune || options_.batchInvariant) return nullptr;
  const DeviceProperties device = describe(stream_.ordinal());
  return std::make_unique<PlanFile>(options_.planFolder, PlanEnvironment{device.name, device.computeCapability, device.multiprocessors, library_->version()});
}

std::string GemmContext::report() {
  start();
  if (!planFile_) return report_;
  if (!planFile_->problem().empty()) return report_ + "; plans are not kept: " + planFile_->problem();
  return report_ + "; " + std::to_string(planFile_->size()) + " plans in " + planFile_->path();
}

GemmContext::Problem GemmContext::problem(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) const {
  Problem p{};
  const int64_t m = x.dims[0], n = out.dims[1], k = x.dims[1];
  // The stride of a single row says nothing, but the library wants one that is not shorter than the row.
  const auto stride = [](const Tensor& t) { return t.dims[0] > 1 ? t.strides[0] : std::max(t.strides[0], t.dims[1]); };
  p.args = {x.data, weight.data, bias ? bias->data : nullptr, out.data, m, n, k, stride(x), stride(weight), stride(out),
            bias && bias->dtype == DType::Float32, out.dtype == DType::Float32};
  p.dtype = x.dtype;
  p.biasType = bias ? bias->dtype : x.dtype;
  const int64_t width = kAlignment / elementSize(x.dtype), outWidth = kAlignment / elementSize(out.dtype);
  p.inputsAligned = aligned(x.data) && aligned(weight.data) && k % width == 0 && p.args.xStride % width == 0 && p.args.weightStride % width == 0;
  const bool outAligned = aligned(out.data) && p.args.outStride % outWidth == 0;
  // Its bias is of the output's type; for a float32 output another bias is added afterwards without loss.
  const bool biasFits = !bias || out.dtype == DType::Float32 || (bias->dtype == out.dtype && aligned(bias->data));
  p.cublasLtTakesIt = outAligned && biasFits;
  return p;
}

GemmPath GemmContext::choose(const Problem& p, bool capturing) {
  // Loading a library and allocating its workspace are not for a graph; a model is always run once before it is captured.
  if (!capturing) start();
  const GemmArgs& a = p.args;
  return chooseGemm(a.m, a.n, a.k, p.dtype, p.inputsAligned, plans_ && p.cublasLtTakesIt, options_.batchInvariant);
}

bool GemmContext::runCublasLt(const Problem& p, bool capturing) {
  GemmArgs args = p.args;
  const bool addBias = args.bias && args.outFloat && !(args.biasFloat && aligned(args.bias));
  if (addBias) args.bias = nullptr;
  if (!plans_->run(args, p.dtype, stream_.handle(), capturing)) return false;
  if (addBias) launchAddBias(p.args, p.biasType, stream_.handle());
  return true;
}

void GemmContext::linear(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  const Problem p = problem(out, x, weight, bias);
  if (p.args.m == 0 || p.args.n == 0) return;
  const bool capturing = isCapturing(stream_.handle());
  const cudaStream_t stream = stream_.handle();
  switch (choose(p, capturing)) {
    case GemmPath::Gemv: return launchGemv(p.args, p.dtype, gemvWarps(p.args.n, p.args.k, elementSize(p.dtype)), stream);
    case GemmPath::TensorCore: return launchMmaGemm(p.args, p.dtype, stream);
    case GemmPath::Fma: return launchFmaGemm(p.args, p.dtype, stream);
    case GemmPath::CublasLt:
      if (runCublasLt(p, capturing)) return;
      return p.dtype == DType::Float32 ? launchFmaGemm(p.args, p.dtype, stream) : launchMmaGemm(p.args, p.dtype, stream);
  }
}

std::optional<GemmArgs> GemmContext::gemv(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  if (x.dims[0] < 1 || x.dims[0] > kGemvRows) return std::nullopt;
  const Problem p = problem(out, x, weight, bias);
  if (choose(p, isCapturing(stream_.handle())) != GemmPath::Gemv) return std::nullopt;
  return p.args;
}

bool GemmContext::takesFp8(const GemmArgs& a) {
  if (!isCapturing(stream_.handle())) start();
  const int64_t outWidth = kAlignment / (a.outFloat ? 4 : 2);
  // x is rounded into memory of its own, which is aligned.
  return plans_ && hasFp8_ && aligned(a.weight) && aligned(a.out) && a.k % kAlignment == 0 && a.n % kAlignment == 0 && a.weightStride % kAlignment == 0 &&
         a.outStride % outWidth == 0;
}

bool GemmContext::linearFp8(const GemmArgs& args) { return plans_->run(args, DType::Float8E4M3, stream_.handle(), isCapturing(stream_.handle())); }

GemmPath GemmContext::path(const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  return choose(problem(out, x, weight, bias), isCapturing(stream_.handle()));
}

}  // namespace kvasir::cuda
