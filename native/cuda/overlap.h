// Whether views share memory: a kernel that does two ops at once must not write in the second what others of its blocks read in the first.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace kvasir::cuda {

// Bytes of one row (everything below the first dimension) from its first to behind its last element, and of the whole view.
inline int64_t rowSpan(const Tensor& t) {
  int64_t last = 0;
  for (int i = 1; i < t.rank; ++i) last += (t.dims[i] - 1) * t.strides[i];
  return (last + 1) * elementSize(t.dtype);
}
inline int64_t wholeSpan(const Tensor& t) { return (t.dims[0] - 1) * t.strides[0] * elementSize(t.dtype) + rowSpan(t); }

// True when no byte belongs to both. May say false for views that interleave in other ways than as columns of one matrix.
inline bool apart(const void* a, int64_t aBytes, const void* b, int64_t bBytes) {
  const auto first = reinterpret_cast<uintptr_t>(a), second = reinterpret_cast<uintptr_t>(b);
  return first + static_cast<uint64_t>(aBytes) <= second || second + static_cast<uint64_t>(bBytes) <= first;
}
inline bool apart(const Tensor& a, const Tensor& b) {
  if (apart(a.data, wholeSpan(a), b.data, wholeSpan(b))) return true;
  const int64_t stride = a.strides[0] * elementSize(a.dtype);
  if (stride <= 0 || stride != b.strides[0] * elementSize(b.dtype)) return false;
  const auto distance = static_cast<int64_t>(reinterpret_cast<uintptr_t>(b.data) - reinterpret_cast<uintptr_t>(a.data));
  const int64_t after = (distance % stride + stride) % stride;  // from a row of a to the next row of b
  return after >= rowSpan(a) && stride - after >= rowSpan(b);
}

}  // namespace kvasir::cuda
