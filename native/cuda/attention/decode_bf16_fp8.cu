#include "cuda/attention/decode.cuh"

namespace kvasir::cuda::attention {

void decodeBFloat16Fp8(const Arguments& a, const DecodeLaunch& d, Chain s) { dispatchDecode<__nv_bfloat16, Fp8>(a, d, s); }

}  // namespace kvasir::cuda::attention
