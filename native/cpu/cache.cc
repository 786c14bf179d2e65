// Writes the keys and values of a step into their pages. Work is split by kv head and then by token, so that two threads seldom
// touch one page.
#include "cpu/cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "cpu/cache_layout.h"

namespace kvasir::cpu {

namespace {

struct Write {
  const Tensor &kvCache, &k, &v, &slots;
  int64_t numTokens, numKvHeads, headDim, numSlots;
  float kScale, vScale;
};

constexpr int64_t kChunk = 64;  // head dimensions converted at once

// To nearest, ties to even; beyond +-448 cut to that. NaN becomes 0x7f.
f8e4m3 toE4M3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7f};
  if (magnitude >= 0x43e00000u) return {static_cast<uint8_t>(sign | 0x7eu)};
  if (magnitude < 0x3c800000u) {  // below 2^-6 codes are subnormal: let the FPU round by adding 2^14 (its ulp is 2^-9)
    const float shifted = std::bit_cast<float>(magnitude) + 16384.0f;
    return {static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u))};
  }
  return {static_cast<uint8_t>(sign | ((magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20))};
}

template <class To, class From>
const To* converted(const From* __restrict from, int64_t n, float scale, To* __restrict buffer) {
  if constexpr (std::is_same_v<To, From>) return from;
  else
    for (int64_t i = 0; i < n; ++i) buffer[i] = toE4M3(toFloat(from[i]) / scale);
  return buffer;
}

template <class T>
constexpr bool kPaired = pairedPages(std::is_same_v<T, bf16> ? DType::BFloat16 : std::is_same_v<T, f8e4m3> ? DType::Float8E4M3 : DType::Float32);

// Dimensions [d, d + n) of one token; d and n are even.
template <class T>
void scatterKey(T* __restrict page, const T* __restrict x, int64_t token, int64_t d, int64_t n) {
  constexpr bool paired = kPaired<T>;
  T* to = page + keyIndex(paired, token, d);
  if constexpr (paired)
    for (int64_t i = 0; i < n; i += 2) std::memcpy(to + i * kPageTokens, x + i, 2 * sizeof(T));
  else
    for (int64_t i = 0; i < n; ++i) to[i * kPageTokens] = x[i];
}
template <class T>
void scatterValue(T* __restrict page, const T* __restrict x, int64_t headDim, int64_t token, int64_t d, int64_t n) {
  constexpr bool paired = kPaired<T>;
  T* to = page + valueIndex(paired, headDim, token, d);
  for (int64_t i = 0; i < n; ++i) to[paired ? 2 * i : i] = x[i];
}

template <class To, class From>
void writeToken(const Write& w, int64_t token, int64_t head, int64_t slot) {
  const int64_t block = slot / kPageTokens, at = slot % kPageTokens, page = kPageTokens * w.headDim;
  To* const keys = w.kvCache.ptr<To>() + (block * 2 * w.numKvHeads + head) * page;
  To* const values = keys + w.numKvHeads * page;
  const From* const k = w.k.ptr<From>() + token * w.k.strides[0] + head * w.k.strides[1];
  const From* const v = w.v.ptr<From>() + token * w.v.strides[0] + head * w.v.strides[1];
  To buffer[kChunk];
  for (int64_t d = 0; d < w.headDim; d += kChunk) {
    const int64_t n = std::min(kChunk, w.headDim - d);
    scatterKey(keys, converted<To>(k + d, n, w.kScale, buffer), at, d, n);
    scatterValue(values, converted<To>(v + d, n, w.vScale, buffer), w.headDim, at, d, n);
  }
}

template <class To, class From>
void writeAll(Pool& pool, const Write& w) {
  const int64_t* const slots = w.slots.ptr<int64_t>();
  const int64_t grain = 32768 / (w.headDim + 1) + 1;
  pool.forRange(w.numKvHeads * w.numTokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / w.numTokens, token = i % w.numTokens, slot = slots[token];
      if (slot < 0 || slot >= w.numSlots) continue;  // padding; a slot outside the cache must not corrupt memory
      writeToken<To, From>(w, token, head, slot);
    }
  });
}

template <class From>
void writeFrom(Pool& pool, const Write& w) {
  if (w.kvCache.dtype == DType::Float8E4M3) writeAll<f8e4m3, From>(pool, w);
  else writeAll<From, From>(pool, w);
}

}  // namespace

void kvCacheWrite(Pool& pool, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale) {
  const Write w{kvCache, k, v, slotMapping, k.dims[0], k.dims[1], k.dims[2], kvCache.dims[0] * kPageTokens,
                static_cast<float>(kScale), static_cast<float>(vScale)};
  switch (k.dtype) {
    case DType::Float32: return writeFrom<float>(pool, w);
    case DType::BFloat16: return writeFrom<bf16>(pool, w);
    default: return writeFrom<f16>(pool, w);
  }
}

}  // namespace kvasir::cpu
