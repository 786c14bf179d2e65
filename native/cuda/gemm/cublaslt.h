// cuBLASLt without its headers: the few declarations needed here, and the library loaded at run time. A machine that lacks it uses the
// kernels of this library. Names, numbers and sizes are those of the cuBLAS documentation (cublasLt data types, stable since 11.0).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda/gemm/library_search.h"

namespace kvasir::cuda {

namespace lt {

using Status = int;  // cublasStatus_t; 0 is success
inline constexpr Status kInvalidValue = 7, kNotSupported = 15;

inline constexpr int kReal32 = 0, kReal16 = 2, kRealB16 = 14, kReal8E4M3 = 28;  // cudaDataType
inline constexpr int kCompute32 = 68;                                            // cublasComputeType_t: CUBLAS_COMPUTE_32F, no TF32
inline constexpr int kTransposed = 1;                                            // cublasOperation_t

enum DescAttribute : int { kDescTransA = 3, kDescTransB = 4, kDescEpilogue = 7, kDescBiasPointer = 8 };
enum LayoutAttribute : int { kLayoutColumns = 3 };
enum PreferenceAttribute : int {
  kPreferWorkspaceBytes = 1,   // uint64_t
  kPreferReductionMask = 3,    // uint32_t
  kPreferAlignmentA = 5,       // uint32_t each: A, B, C, D; the default is 256 bytes
  kPreferAlignmentD = 8
};
inline constexpr uint32_t kEpilogueDefault = 1, kEpilogueBias = 4;
// Partial sums of a split k are added in float32, never in the type of the output; 0: k is not split.
inline constexpr uint32_t kReduceNone = 0, kReduceCompute = 2;

struct Algo {
  uint64_t data[8];
};
struct Heuristic {
  Algo algo;
  size_t workspaceSize;
  Status state;
  float wavesCount;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

// Opaque: made and destroyed by the library.
using Desc = void*;
using Layout = void*;
using Preference = void*;

}  // namespace lt

// The library and a handle of it for the current device.
class CublasLt {
 public:
  // Null if the library is not there, lacks a function, is too old or cannot start; `report` says which and where was looked.
  // path: a file or folder, or empty for the usual places. The device must be current.
  static std::unique_ptr<CublasLt> load(const std::string& path, std::string& report);
  // What load() would find, without a device: for diagnosis. True if there is a library.
  static bool find(const std::string& path, std::string& report);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  size_t version() const { return version_; }  // 130100 is 13.1.0
  const std::string& path() const { return path_; }
  void* handle() const { return handle_; }
  std::string describe(lt::Status status) const;
  // Throws ERR_KVASIR_DEVICE unless status is success.
  void check(lt::Status status, const char* call) const;

  // The functions, named as in the library without "cublasLt".
  lt::Status (*matmulDescCreate)(lt::Desc*, int computeType, int scaleType) = nullptr;
  lt::Status (*matmulDescDestroy)(lt::Desc) = nullptr;
  lt::Status (*matmulDescSetAttribute)(lt::Desc, int attribute, const void* value, size_t bytes) = nullptr;
  lt::Status (*matrixLayoutCreate)(lt::Layout*, int dataType, uint64_t rows, uint64_t columns, int64_t leading) = nullptr;
  lt::Status (*matrixLayoutDestroy)(lt::Layout) = nullptr;
  lt::Status (*matrixLayoutSetAttribute)(lt::Layout, int attribute, const void* value, size_t bytes) = nullptr;
  lt::Status (*matmulPreferenceCreate)(lt::Preference*) = nullptr;
  lt::Status (*matmulPreferenceDestroy)(lt::Preference) = nullptr;
  lt::Status (*matmulPreferenceSetAttribute)(lt::Preference, int attribute, const void* value, size_t bytes) = nullptr;
  lt::Status (*matmulAlgoGetHeuristic)(void* handle, lt::Desc, lt::Layout a, lt::Layout b, lt::Layout c, lt::Layout d, lt::Preference, int requested,
                                       lt::Heuristic* results, int* returned) = nullptr;
  // Whether an algorithm can compute a problem, and the workspace it needs then.
  lt::Status (*matmulAlgoCheck)(void* handle, lt::Desc, lt::Layout a, lt::Layout b, lt::Layout c, lt::Layout d, const lt::Algo*, lt::Heuristic* result) = nullptr;
  lt::Status (*matmul)(void* handle, lt::Desc, const void* alpha, const void* a, lt::Layout, const void* b, lt::Layout, const void* beta, const void* c,
                       lt::Layout, void* d, lt::Layout, const lt::Algo*, void* workspace, size_t workspaceBytes, cudaStream_t) = nullptr;

 private:
  CublasLt() = default;
  // The name of the first function the library lacks, or null.
  const char* bind(void* library);

  lt::Status (*create_)(void** handle) = nullptr;
  lt::Status (*destroy_)(void* handle) = nullptr;
  size_t (*getVersion_)() = nullptr;
  const char* (*getStatusString_)(lt::Status) = nullptr;  // newer libraries only
  void* handle_ = nullptr;
  size_t version_ = 0;
  std::string path_;
};

}  // namespace kvasir::cuda
