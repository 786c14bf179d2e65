// Writes the keys and values of a step into their pages. Work is split by kv head and then by token, so that two threads seldom
// touch one page.
#include "cpu/cache.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/cache_layout.h"

namespace kvasir::cpu {

namespace {

struct Write {
  const Tensor &kvCache, &k, &v, &slots;
  int64_t numTokens, numKvHeads, headDim, numSlots;
};

constexpr int64_t kChunk = 64;  // head dimensions converted at once

template <class To, class From>
const To* converted(const From* __restrict from, int64_t n, To* __restrict buffer) {
  if constexpr (std::is_same_v<To, From>) return from;
  for (int64_t i = 0; i < n; ++i) buffer[i] = fromFloat<To>(toFloat(from[i]));
  return buffer;
}

// Dimensions [d, d + n) of one token; d and n are even.
template <class T>
void scatterKey(T* __restrict page, const T* __restrict x, int64_t token, int64_t d, int64_t n) {
  constexpr bool paired = std::is_same_v<T, bf16>;
  T* to = page + keyIndex(paired, token, d);
  if constexpr (paired)
    for (int64_t i = 0; i < n; i += 2) std::memcpy(to + i * kPageTokens, x + i, 2 * sizeof(T));
  else
    for (int64_t i = 0; i < n; ++i) to[i * kPageTokens] = x[i];
}
template <class T>
void scatterValue(T* __restrict page, const T* __restrict x, int64_t headDim, int64_t token, int64_t d, int64_t n) {
  constexpr bool paired = std::is_same_v<T, bf16>;
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
    scatterKey(keys, converted<To>(k + d, n, buffer), at, d, n);
    scatterValue(values, converted<To>(v + d, n, buffer), w.headDim, at, d, n);
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

template <class To>
void writeFrom(Pool& pool, const Write& w) {
  switch (w.k.dtype) {
    case DType::Float32: return writeAll<To, float>(pool, w);
    case DType::BFloat16: return writeAll<To, bf16>(pool, w);
    default: return writeAll<To, f16>(pool, w);
  }
}

}  // namespace

void kvCacheWrite(Pool& pool, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping) {
  const Write w{kvCache, k, v, slotMapping, k.dims[0], k.dims[1], k.dims[2], kvCache.dims[0] * kPageTokens};
  switch (kvCache.dtype) {
    case DType::Float32: return writeFrom<float>(pool, w);
    case DType::BFloat16: return writeFrom<bf16>(pool, w);
    default: return writeFrom<f16>(pool, w);
  }
}

}  // namespace kvasir::cpu
