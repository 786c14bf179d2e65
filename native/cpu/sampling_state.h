// Layout of the sampler's state tensors; the meaning is told in ops/sampling.h.
#pragma once

#include <cstdint>

#include "core/error.h"
#include "core/tensor.h"

namespace kvasir::cpu {

inline constexpr int32_t kPromptBit = 1 << 30;

// A row of `params` as it lies in memory.
struct SamplingRow {
  float temperature, topP, minP, topK, repetition, presence, frequency, spare;

  bool hasPenalties() const { return repetition != 1.0f || presence != 0.0f || frequency != 0.0f; }
};

inline const SamplingRow& samplingRow(const Tensor& params, int64_t row) {
  return *reinterpret_cast<const SamplingRow*>(params.ptr<float>() + row * params.strides[0]);
}

// The state row of each logits row must exist; -1 marks a padding row. Ids come from buffers that only the kernel can read.
inline void checkIndices(const char* op, const char* what, const Tensor& indices, int64_t limit, int64_t lowest) {
  for (int64_t i = 0; i < indices.dims[0]; ++i) {
    const int32_t value = indices.ptr<int32_t>()[i];
    if (value < lowest || value >= limit)
      fail(kTensorError, "%s: %s[%lld] is %d, expected %lld to %lld", op, what, static_cast<long long>(i), value,
           static_cast<long long>(lowest), static_cast<long long>(limit - 1));
  }
}

}  // namespace kvasir::cpu
