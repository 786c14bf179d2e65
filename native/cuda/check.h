// CUDA errors as exceptions. Every runtime call goes through KVASIR_CUDA.
#pragma once

#include <cuda_runtime.h>

#include "core/error.h"

namespace kvasir::cuda {

// Throws ERR_KVASIR_OUT_OF_MEMORY or ERR_KVASIR_DEVICE with what was called.
[[noreturn]] void raise(cudaError_t error, const char* call);

inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) raise(error, call);
}

}  // namespace kvasir::cuda

#define KVASIR_CUDA(call) ::kvasir::cuda::check((call), #call)
