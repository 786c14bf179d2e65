// Element types on the device: conversion to and from float32, and 16-byte vectors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"

namespace kvasir::cuda {

__device__ __forceinline__ float toFloatDevice(float x) { return x; }
__device__ __forceinline__ float toFloatDevice(__half x) { return __half2float(x); }
__device__ __forceinline__ float toFloatDevice(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float toFloatDevice(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

template <class T>
__device__ __forceinline__ T convert(float x);
template <>
__device__ __forceinline__ float convert<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half convert<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 convert<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __nv_fp8_e4m3 convert<__nv_fp8_e4m3>(float x) {  // beyond +-448 cut to that
  return static_cast<__nv_fp8_e4m3>(x);
}

// 16 bytes of elements.
template <class T>
struct alignas(16) Vec {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

// Calls body with a null pointer of the element type: dispatchFloat(dtype, [&](auto* p) { using T = std::remove_pointer_t<decltype(p)>; ... }).
template <class F>
void dispatchFloat(DType dtype, F&& body) {
  switch (dtype) {
    case DType::Float32: return body(static_cast<float*>(nullptr));
    case DType::Float16: return body(static_cast<__half*>(nullptr));
    case DType::BFloat16: return body(static_cast<__nv_bfloat16*>(nullptr));
    default: fail(kTensorError, "%s is not a compute type", dtypeName(dtype));
  }
}

}  // namespace kvasir::cuda
