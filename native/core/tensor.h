// A tensor as kernels see it: a pointer into a storage with dims and strides. Plain data, copied into queued tasks.
#pragma once

#include <cstdint>
#include <optional>

#include "core/dtype.h"

namespace kvasir {

enum class Device : int32_t { Cpu = 0, Cuda = 1 };

// How the elements of a storage are arranged. Packed weights are private to a backend: see cpu/gemm.h.
enum class Layout : int32_t { Strided = 0, Packed = 1 };

inline constexpr int kMaxRank = 5;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::Float32;
  Layout layout = Layout::Strided;
  int32_t rank = 0;
  int64_t dims[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};  // in elements

  template <class T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
  int64_t dim(int i) const { return dims[i < 0 ? rank + i : i]; }
  int64_t stride(int i) const { return strides[i < 0 ? rank + i : i]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  bool contiguous() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (dims[i] != 1 && strides[i] != expected) return false;
      expected *= dims[i];
    }
    return true;
  }
};

using MaybeTensor = std::optional<Tensor>;

}  // namespace kvasir
