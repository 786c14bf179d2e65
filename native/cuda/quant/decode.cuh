// Codes of quantized weights as numbers.
#pragma once

#include <type_traits>

#include "cuda/gemm/element.cuh"
#include "cuda/quant/args.h"

namespace kvasir::cuda::quant {

template <class T>
using PairOf = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

template <class T>
__device__ __forceinline__ PairOf<T> asPair(uint32_t bits) {
  return *reinterpret_cast<const PairOf<T>*>(&bits);
}
template <class P>
__device__ __forceinline__ uint32_t asBits(P pair) {
  static_assert(sizeof(P) == 4);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// The bits of a number in both halves.
__device__ __forceinline__ constexpr uint32_t twice(uint32_t bits) { return bits | bits << 16; }

// The number from which on integers are one bit apart, so that its lowest bits count: 1024 and 128.
template <class T>
inline constexpr uint32_t kIntegers = std::is_same_v<T, __half> ? 0x6400u : 0x4300u;

// What to take from kIntegers + code to have code - zero, for an int4 zero point; nothing for the other kinds.
template <class T>
__device__ __forceinline__ uint32_t int4Offset(int zero) {
  return twice(kIntegers<T> + static_cast<uint32_t>(zero));
}

// Pairs of inputs (0, 4), (1, 5), (2, 6), (3, 7) of a word of int4 codes, less the zero point. Exact.
template <class T>
__device__ __forceinline__ void decodeInt4(uint32_t word, uint32_t offset, uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    pairs[i] = asBits(__hsub2(asPair<T>(((word >> (4 * i)) & 0x000f000fu) | twice(kIntegers<T>)), asPair<T>(offset)));
}

// Pairs of inputs (0, 1), (2, 3) of a word of int8 codes. Exact.
template <class T>
__device__ __forceinline__ void decodeInt8(uint32_t word, uint32_t (&pairs)[2]) {
  const uint32_t raised = word ^ 0x80808080u;  // 128 + code, unsigned
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 offset = asPair<T>(twice(0x6480u));  // 1024 + 128
    pairs[0] = asBits(__hsub2(asPair<T>(__byte_perm(raised, 0x64646464u, 0x4140)), offset));
    pairs[1] = asBits(__hsub2(asPair<T>(__byte_perm(raised, 0x64646464u, 0x4342)), offset));
  } else {  // bfloat16 has no room for 256 + 255: by way of the lowest bits of 2^23
    float values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7440u + static_cast<uint32_t>(i))) - 8388736.0f;
    pairs[0] = asBits(__floats2bfloat162_rn(values[0], values[1]));
    pairs[1] = asBits(__floats2bfloat162_rn(values[2], values[3]));
  }
}

// Pairs of inputs (0, 1), (2, 3) of a word of float8_e4m3 codes: sign, exponent and mantissa at their places in a number with a larger
// exponent, and a multiplication by the power of two between the biases, which takes care of subnormal codes too. Exact. The code 0x7f,
// NaN, which checkpoints do not hold, counts as 480.
template <class T>
__device__ __forceinline__ void decodeFp8(uint32_t word, uint32_t (&pairs)[2]) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  constexpr int kShift = kHalf ? 1 : 4;
  constexpr uint32_t kFactor = kHalf ? 0x5c00u : 0x7b80u;  // 2^8, 2^120
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t high = __byte_perm(word, 0, i == 0 ? 0x1404 : 0x3424);  // a byte on top of each half
    const uint32_t bits = (high & 0x80008000u) | ((high & 0x7f007f00u) >> kShift);
    pairs[i] = asBits(__hmul2(asPair<T>(bits), asPair<T>(twice(kFactor))));
  }
}

__device__ __forceinline__ float2 toFloats(__half2 pair) { return __half22float2(pair); }
__device__ __forceinline__ float2 toFloats(__nv_bfloat162 pair) {
  const uint32_t bits = asBits(pair);
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ __forceinline__ uint32_t packFloats(float low, float high, __half*) { return asBits(__floats2half2_rn(low, high)); }
__device__ __forceinline__ uint32_t packFloats(float low, float high, __nv_bfloat16*) { return asBits(__floats2bfloat162_rn(low, high)); }

// One code as float32.
template <QuantKind kKind>
__device__ __forceinline__ float codeAt(const uint8_t* row, int64_t k, int zero) {
  if constexpr (kKind == QuantKind::Int4) return static_cast<float>(((row[k / 2] >> (k % 2 * 4)) & 15) - zero);
  if constexpr (kKind == QuantKind::Int8) return static_cast<float>(static_cast<int8_t>(row[k]));
  return toFloatDevice(reinterpret_cast<const __nv_fp8_e4m3*>(row)[k]);
}

// The bits of a scale, to be loaded early, and its number.
__device__ __forceinline__ uint32_t scaleBits(const QuantArgs& a, int64_t at) {
  if (a.scaleType == DType::Float32) return static_cast<const uint32_t*>(a.scales)[at];
  return static_cast<const uint16_t*>(a.scales)[at];
}
__device__ __forceinline__ float scaleOf(const QuantArgs& a, uint32_t bits) {
  if (a.scaleType == DType::Float32) return __uint_as_float(bits);
  if (a.scaleType == DType::BFloat16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Where the scales of an output begin.
__device__ __forceinline__ int64_t scaleRow(const QuantArgs& a, int64_t row) {
  return (a.blockN == 1 ? row : static_cast<uint32_t>(row) / static_cast<uint32_t>(a.blockN)) * a.groups;
}

__device__ __forceinline__ int zeroAt(const QuantArgs& a, int64_t at) { return a.zeros ? a.zeros[at] : 8; }

}  // namespace kvasir::cuda::quant
