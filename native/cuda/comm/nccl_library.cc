#include "cuda/comm/nccl_library.h"

#include <dlfcn.h>

#include "cuda/comm/comm.h"

namespace kvasir::cuda {

namespace {

constexpr int kOldest = 21800;

// 2.28.9 is 22809.
std::string versionText(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace

const char* NcclLibrary::bind(void* library) {
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (!function && !missing) missing = name;
  };
  need("ncclGetVersion", getVersion_);
  need("ncclGetErrorString", getErrorString_);
  need("ncclGetLastError", getLastError_);
  need("ncclGetUniqueId", getUniqueId);
  need("ncclCommInitRankConfig", commInitRankConfig);
  need("ncclCommGetAsyncError", commGetAsyncError);
  need("ncclCommFinalize", commFinalize);
  need("ncclCommDestroy", commDestroy);
  need("ncclCommAbort", commAbort);
  need("ncclAllReduce", allReduce);
  need("ncclAllGather", allGather);
  need("ncclReduceScatter", reduceScatter);
  need("ncclBroadcast", broadcast);
  return missing;
}

std::shared_ptr<const NcclLibrary> NcclLibrary::load(std::string& report) {
  LibraryQuery query;
  query.names = {"libnccl.so.2", "libnccl.so"};
  query.pythonFolders = {"nvidia/nccl/lib"};
  query.pathVariable = "KVASIR_NCCL_PATH";
  const LoadedLibrary library = loadLibrary(query);
  if (!library.handle) {
    report = "NCCL was not found; " + library.report;
    return nullptr;
  }
  std::shared_ptr<NcclLibrary> result(new NcclLibrary());
  if (const char* missing = result->bind(library.handle)) {
    report = "NCCL at " + library.path + " lacks " + missing;
    return nullptr;
  }
  int version = 0;
  result->getVersion_(&version);
  report = "NCCL " + versionText(version) + " at " + library.path;
  if (version >= kOldest) return result;
  report += " is older than " + versionText(kOldest);
  return nullptr;
}

std::string NcclLibrary::describe(nccl::Result result) const {
  const char* last = getLastError_(nullptr);
  return "NCCL error " + std::to_string(result) + ", " + getErrorString_(result) + (last && *last ? std::string(": ") + last : "");
}

NcclReport findNccl() {
  NcclReport result{};
  result.found = NcclLibrary::load(result.report) != nullptr;
  return result;
}

}  // namespace kvasir::cuda
