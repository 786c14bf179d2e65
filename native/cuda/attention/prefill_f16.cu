#include "cuda/attention/prefill.cuh"

namespace kvasir::cuda::attention {

void prefillFloat16(const Arguments& a, cudaStream_t s) { dispatchPrefill<__half>(a, s); }

}  // namespace kvasir::cuda::attention
