#include "cuda/attention/prefill.cuh"

namespace kvasir::cuda::attention {

void prefillBFloat16Fp8(const Arguments& a, cudaStream_t s) { dispatchPrefill<__nv_bfloat16, Fp8>(a, s); }

}  // namespace kvasir::cuda::attention
