// NCCL without its header: the few declarations needed here, and the library loaded at run time. Names, numbers and sizes are those of the
// NCCL documentation (stable since 2.18).
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstddef>
#include <memory>
#include <string>

#include "cuda/gemm/library_search.h"

namespace kvasir::cuda {

namespace nccl {

using Result = int;  // ncclResult_t
inline constexpr Result kSuccess = 0, kInProgress = 7;

inline constexpr int kInt8 = 0, kFloat16 = 6, kFloat32 = 7, kBFloat16 = 9;  // ncclDataType_t
inline constexpr int kSum = 0;                                              // ncclRedOp_t

struct UniqueId {
  char bytes[128];
};

// ncclConfig_t as of 2.14, which is what `version` says it is; the library takes its own defaults for what came later.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 1;
  int unused = INT_MIN;  // the end of the structure: "not set"
};
static_assert(sizeof(Config) == 24);

using Comm = void*;  // opaque

}  // namespace nccl

class NcclLibrary {
 public:
  // Null if the library is not there, lacks a function or is too old; `report` says which one was found, or where was looked.
  static std::shared_ptr<const NcclLibrary> load(std::string& report);

  // What the library says about a result.
  std::string describe(nccl::Result result) const;

  // The functions, named as in the library without "nccl".
  nccl::Result (*getUniqueId)(nccl::UniqueId*) = nullptr;
  nccl::Result (*commInitRankConfig)(nccl::Comm*, int size, nccl::UniqueId, int rank, nccl::Config*) = nullptr;
  nccl::Result (*commGetAsyncError)(nccl::Comm, nccl::Result*) = nullptr;
  nccl::Result (*commFinalize)(nccl::Comm) = nullptr;
  nccl::Result (*commDestroy)(nccl::Comm) = nullptr;
  nccl::Result (*commAbort)(nccl::Comm) = nullptr;
  nccl::Result (*allReduce)(const void* from, void* to, size_t count, int type, int op, nccl::Comm, cudaStream_t) = nullptr;
  nccl::Result (*allGather)(const void* from, void* to, size_t count, int type, nccl::Comm, cudaStream_t) = nullptr;
  nccl::Result (*reduceScatter)(const void* from, void* to, size_t count, int type, int op, nccl::Comm, cudaStream_t) = nullptr;
  nccl::Result (*broadcast)(const void* from, void* to, size_t count, int type, int root, nccl::Comm, cudaStream_t) = nullptr;

 private:
  NcclLibrary() = default;
  // The name of the first function the library lacks, or null.
  const char* bind(void* library);

  nccl::Result (*getVersion_)(int*) = nullptr;
  const char* (*getErrorString_)(nccl::Result) = nullptr;
  const char* (*getLastError_)(nccl::Comm) = nullptr;
};

}  // namespace kvasir::cuda
