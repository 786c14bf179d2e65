#include "cuda/dependent_launch.cuh"

#include "cuda/stream.h"

namespace kvasir::cuda {

namespace {

__global__ void probeKernel() {}

}  // namespace

// Kernels compiled for an older architecture contain no wait, also where the driver translates them for a device that could.
bool supportsOverlap(int device) {
  int major = 0;
  KVASIR_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  cudaFuncAttributes code{};
  KVASIR_CUDA(cudaFuncGetAttributes(&code, probeKernel));
  return major >= 9 && code.ptxVersion >= 90;
}

}  // namespace kvasir::cuda
