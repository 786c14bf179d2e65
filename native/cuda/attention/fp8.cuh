// Elements of a float8_e4m3 cache on their way to 16-bit products.
#pragma once

#include "cuda/attention/mma.cuh"
#include "cuda/convert.cuh"

namespace kvasir::cuda::attention {

using Fp8 = __nv_fp8_e4m3;

// Two codes as two float16, exactly, the lower byte first.
__device__ __forceinline__ uint32_t widenToHalf(uint16_t codes) {
  const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3);
  return pair.x | static_cast<uint32_t>(pair.y) << 16;
}

// Four codes as two words of T, exactly: bytes 0 and 1, bytes 2 and 3.
template <class T>
__device__ __forceinline__ void widen(uint32_t codes, uint32_t& low, uint32_t& high);
template <>
__device__ __forceinline__ void widen<__half>(uint32_t codes, uint32_t& low, uint32_t& high) {
  low = widenToHalf(static_cast<uint16_t>(codes));
  high = widenToHalf(static_cast<uint16_t>(codes >> 16));
}
template <>
__device__ __forceinline__ void widen<__nv_bfloat16>(uint32_t codes, uint32_t& low, uint32_t& high) {
  widen<__half>(codes, low, high);
#pragma unroll
  for (uint32_t* word : {&low, &high}) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(word));
    *word = packPair<__nv_bfloat16>(pair.x, pair.y);
  }
}

}  // namespace kvasir::cuda::attention
