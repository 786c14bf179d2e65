#include "cuda/attention/decode.cuh"

namespace kvasir::cuda::attention {

void decodeFloat16Fp8(const Arguments& a, const DecodeLaunch& d, Chain s) { dispatchDecode<__half, Fp8>(a, d, s); }

}  // namespace kvasir::cuda::attention
