#include "cuda/attention/prefill.cuh"

namespace kvasir::cuda::attention {

void prefillFloat16Fp8(const Arguments& a, cudaStream_t s) { dispatchPrefill<__half, Fp8>(a, s); }

}  // namespace kvasir::cuda::attention
