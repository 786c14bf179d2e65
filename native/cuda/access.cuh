// Wide memory accesses: how many bytes at a time rows can be moved, types of that size, and launch sizes.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"

namespace kvasir::cuda {

// N elements that are moved by one access; at most 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

// The widest access (16, 8, 4, 2 or 1 bytes) of which all these addresses, distances and sizes in bytes are multiples.
inline int accessBytes(std::initializer_list<int64_t> values) {
  int64_t all = 16;
  for (const int64_t v : values) all |= v;
  return static_cast<int>(all & -all);
}
inline int64_t addressOf(const Tensor& t) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data)); }

// Calls body with a null pointer to an unsigned type of that many bytes.
template <class F>
void dispatchWord(int bytes, F&& body) {
  switch (bytes) {
    case 16: return body(static_cast<uint4*>(nullptr));
    case 8: return body(static_cast<uint64_t*>(nullptr));
    case 4: return body(static_cast<uint32_t*>(nullptr));
    case 2: return body(static_cast<uint16_t*>(nullptr));
    default: return body(static_cast<uint8_t*>(nullptr));
  }
}

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for a grid-stride loop over `items`: enough to fill the device, few enough that each has work.
inline unsigned gridFor(int64_t items, int threads, int multiprocessors) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceilDiv(items, threads), 1, int64_t{multiprocessors} * 16));
}

}  // namespace kvasir::cuda
