#include "cuda/attention/prefill.cuh"

namespace kvasir::cuda::attention {

void prefillBFloat16(const Arguments& a, cudaStream_t s) { dispatchPrefill<__nv_bfloat16>(a, s); }

}  // namespace kvasir::cuda::attention
