// Programmatic dependent launch (compute capability 9.0 and later): a kernel may start while the one before it on the stream still runs,
// as soon as every block of that one has called letNextStart() or ended. Its launch and whatever it does before waitForPrevious() then
// cost no time of their own.
//
// What a kernel that is launched so must do:
// - Every thread that reads or writes global memory calls waitForPrevious() first, constants aside. Until then the kernel before may still
//   write what this one reads, and read what this one writes.
// - Every block calls waitForPrevious(), also one that has nothing to do. A kernel then never ends before the one before it, so that
//   waiting for one is waiting for all: the memory of any earlier kernel may be used again.
// - What other kernels wrote is read with plain loads. The read-only path (__ldg, const __restrict__) may hold lines from before the wait.
// Kernels that are launched in the usual way start after everything before them, and may stand anywhere between.
#pragma once

#include <cuda_runtime.h>

#include "cuda/check.h"

namespace kvasir::cuda {

// Returns when all earlier kernels of the stream have ended and their writes are visible.
__device__ __forceinline__ void waitForPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Allows the next kernel to start once all blocks got here. Best at the very beginning: it waits for this kernel anyway, and its blocks
// only get room that blocks of this one do not need.
__device__ __forceinline__ void letNextStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Asks for a line of global memory to be brought to L2, which is allowed before waitForPrevious(): nothing is read yet.
__device__ __forceinline__ void prefetchToL2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Where a kernel goes; `overlap` (CudaStream::overlaps()): it keeps the rules above and may start early.
struct Chain {
  cudaStream_t stream;
  bool overlap;
  int sharedBytes = 0;  // dynamic shared memory of each block
};

template <class... P, class... A>
void launchChained(Chain chain, void (*kernel)(P...), dim3 grid, dim3 block, const A&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = chain.stream;
  config.dynamicSmemBytes = static_cast<size_t>(chain.sharedBytes);
  config.attrs = &early;
  config.numAttrs = chain.overlap ? 1 : 0;
  KVASIR_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}

}  // namespace kvasir::cuda
