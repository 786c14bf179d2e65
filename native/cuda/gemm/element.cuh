// Elements as the linear kernels read and write them.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/gemm/kernels.h"

namespace kvasir::cuda {

// The elements of 16 bytes as float32.
__device__ __forceinline__ void unpack(const uint4& v, float (&to)[8], __nv_bfloat16*) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ void unpack(const uint4& v, float (&to)[8], __half*) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2_raw raw{static_cast<unsigned short>(words[i] & 0xffffu), static_cast<unsigned short>(words[i] >> 16)};
    const float2 pair = __half22float2(__half2(raw));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void unpack(const uint4& v, float (&to)[4], float*) {
  to[0] = __uint_as_float(v.x);
  to[1] = __uint_as_float(v.y);
  to[2] = __uint_as_float(v.z);
  to[3] = __uint_as_float(v.w);
}

template <class T>
__device__ __forceinline__ float biasAt(const GemmArgs& a, int64_t column) {
  if (!a.bias) return 0.0f;
  return a.biasFloat ? static_cast<const float*>(a.bias)[column] : toFloatDevice(static_cast<const T*>(a.bias)[column]);
}

template <class T>
__device__ __forceinline__ void storeAt(const GemmArgs& a, int64_t row, int64_t column, float value) {
  const int64_t at = row * a.outStride + column;
  if (a.outFloat)
    static_cast<float*>(a.out)[at] = value;
  else
    static_cast<T*>(a.out)[at] = convert<T>(value);
}

}  // namespace kvasir::cuda
