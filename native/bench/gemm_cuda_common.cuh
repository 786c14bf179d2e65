// What the checks and the timings of gemm_cuda_bench.cu share: device buffers, random operands, the kernels under one name.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/gemm/context.h"
#include "cuda/gemm/kernels.h"
#include "cuda/stream.h"

namespace kvasir::cuda::bench {

class Buffer {
 public:
  Buffer(CudaStream& stream, int64_t bytes) : stream_(stream), bytes_(bytes), data_(stream.allocate(bytes)) {}
  ~Buffer() { stream_.deallocate(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  CudaStream& stream_;
  int64_t bytes_;
  void* data_;
};

// count numbers between -1 and 1 that depend on their index and the seed only.
void fillRandom(CudaStream& stream, void* to, DType dtype, int64_t count, uint32_t seed);
// args.x weight^T + bias in float64, [m, n] contiguous.
std::vector<double> reference(CudaStream& stream, const GemmArgs& args, DType dtype, DType biasType);

enum class Kernel { Gemv1, Gemv2, Gemv4, Gemv8, Mma, Fma, CublasLt };
inline const char* nameOf(Kernel k) {
  constexpr const char* names[] = {"gemv/1", "gemv/2", "gemv/4", "gemv/8", "mma", "fma", "cublasLt"};
  return names[static_cast<int>(k)];
}

// cuBLASLt beside the stream's own use of it, so that it can be called for every m. Null members without the library.
struct Library {
  Library(CudaStream& stream, LtSettings settings) : workspace(stream, 64 << 20) {
    library = CublasLt::load("", report);
    if (library) plans = std::make_unique<LtPlans>(*library, workspace.data(), static_cast<size_t>(workspace.bytes()), settings);
  }
  std::string report;
  Buffer workspace;
  std::unique_ptr<CublasLt> library;
  std::unique_ptr<LtPlans> plans;
};

// False if the kernel does not take the problem. GEMVs start early where the device can: nothing here writes a weight right before.
inline bool launchKernel(Kernel kernel, GemmArgs args, DType dtype, CudaStream& stream, LtPlans* plans, bool capturing = false) {
  const cudaStream_t s = stream.handle();
  args.overlap = stream.overlaps();
  switch (kernel) {
    case Kernel::Gemv1: launchGemv(args, dtype, 1, s); break;
    case Kernel::Gemv2: launchGemv(args, dtype, 2, s); break;
    case Kernel::Gemv4: launchGemv(args, dtype, 4, s); break;
    case Kernel::Gemv8: launchGemv(args, dtype, 8, s); break;
    case Kernel::Mma: launchMmaGemm(args, dtype, s); break;
    case Kernel::Fma: launchFmaGemm(args, dtype, s); break;
    case Kernel::CublasLt:
      if (!plans || !plans->run(args, dtype, s, capturing)) return false;
  }
  check(cudaGetLastError(), nameOf(kernel));
  return true;
}

}  // namespace kvasir::cuda::bench
