#include "cuda/gemm/cublaslt.h"

#include <dlfcn.h>

#include "core/error.h"

namespace kvasir::cuda {

namespace {

constexpr size_t kOldest = 120000;  // libraries of CUDA 11 count their versions differently and are not tested

LoadedLibrary open(const std::string& path) {
  LibraryQuery query;
  query.names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  query.pythonFolders = {"nvidia/cu13/lib", "nvidia/cublas/lib"};
  query.explicitPath = path;
  query.pathVariable = "KVASIR_CUBLASLT_PATH";
  return loadLibrary(query);
}

template <class F>
bool resolve(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

std::string versionText(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace

const char* CublasLt::bind(void* library) {
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto& function) {
    if (!resolve(library, name, function) && !missing) missing = name;
  };
  need("cublasLtCreate", create_);
  need("cublasLtDestroy", destroy_);
  need("cublasLtGetVersion", getVersion_);
  need("cublasLtMatmulDescCreate", matmulDescCreate);
  need("cublasLtMatmulDescDestroy", matmulDescDestroy);
  need("cublasLtMatmulDescSetAttribute", matmulDescSetAttribute);
  need("cublasLtMatrixLayoutCreate", matrixLayoutCreate);
  need("cublasLtMatrixLayoutDestroy", matrixLayoutDestroy);
  need("cublasLtMatrixLayoutSetAttribute", matrixLayoutSetAttribute);
  need("cublasLtMatmulPreferenceCreate", matmulPreferenceCreate);
  need("cublasLtMatmulPreferenceDestroy", matmulPreferenceDestroy);
  need("cublasLtMatmulPreferenceSetAttribute", matmulPreferenceSetAttribute);
  need("cublasLtMatmulAlgoGetHeuristic", matmulAlgoGetHeuristic);
  need("cublasLtMatmulAlgoCheck", matmulAlgoCheck);
  need("cublasLtMatmul", matmul);
  resolve(library, "cublasLtGetStatusString", getStatusString_);
  return missing;
}

std::unique_ptr<CublasLt> CublasLt::load(const std::string& path, std::string& report) {
  LoadedLibrary library = open(path);
  report = library.handle ? "" : "cuBLASLt was not found: own kernels are used; " + library.report;
  if (!library.handle) return nullptr;
  std::unique_ptr<CublasLt> result(new CublasLt());
  result->path_ = library.path;
  if (const char* missing = result->bind(library.handle)) {
    report = "cuBLASLt at " + library.path + " lacks " + missing + ": own kernels are used";
    return nullptr;
  }
  result->version_ = result->getVersion_();
  report = "cuBLASLt " + versionText(result->version_) + " at " + library.path;
  if (result->version_ < kOldest) {
    report += " is older than " + versionText(kOldest) + ": own kernels are used";
    return nullptr;
  }
  if (const lt::Status status = result->create_(&result->handle_); status != 0) {
    result->handle_ = nullptr;
    report += " does not start (" + result->describe(status) + "): own kernels are used";
    return nullptr;
  }
  return result;
}

bool CublasLt::find(const std::string& path, std::string& report) {
  LoadedLibrary library = open(path);
  if (!library.handle) {
    report = "cuBLASLt was not found; " + library.report;
    return false;
  }
  size_t (*version)() = nullptr;
  if (!resolve(library.handle, "cublasLtGetVersion", version)) {
    report = library.path + " is not cuBLASLt";
    return false;
  }
  report = "cuBLASLt " + versionText(version()) + " at " + library.path;
  if (version() >= kOldest) return true;
  report += " is older than " + versionText(kOldest);
  return false;
}

CublasLt::~CublasLt() {
  if (handle_) destroy_(handle_);
}

std::string CublasLt::describe(lt::Status status) const {
  return "status " + std::to_string(status) + (getStatusString_ ? std::string(" ") + getStatusString_(status) : "");
}

void CublasLt::check(lt::Status status, const char* call) const {
  if (status != 0) fail(kDeviceError, "cuBLASLt error: %s (%s)", describe(status).c_str(), call);
}

}  // namespace kvasir::cuda
