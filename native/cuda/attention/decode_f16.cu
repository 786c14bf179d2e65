#include "cuda/attention/decode.cuh"

namespace kvasir::cuda::attention {

void decodeFloat16(const Arguments& a, const DecodeLaunch& d, Chain s) { dispatchDecode<__half>(a, d, s); }

}  // namespace kvasir::cuda::attention
