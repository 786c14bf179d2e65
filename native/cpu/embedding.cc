#include "cpu/embedding.h"

#include <cstring>

#include "cpu/gemm.h"

namespace kvasir::cpu {

namespace {

template <class T>
void widenRow(float* out, const void* row, int64_t n) {
  const T* x = static_cast<const T*>(row);
  for (int64_t i = 0; i < n; ++i) out[i] = toFloat(x[i]);
}

void convertRow(const Tensor& out, void* target, DType from, const void* row, int64_t n) {
  if (from == out.dtype)
    std::memcpy(target, row, static_cast<size_t>(n * elementSize(from)));
  else if (from == DType::BFloat16)
    widenRow<bf16>(static_cast<float*>(target), row, n);
  else
    widenRow<f16>(static_cast<float*>(target), row, n);
}

}  // namespace

void embedding(Pool& pool, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart) {
  const int64_t hidden = out.dims[1], size = elementSize(weight.dtype);
  pool.forRange(out.dims[0], 32768 / (hidden + 1) + 1, [&](int64_t begin, int64_t end, int thread) {
    const bool packed = weight.layout == Layout::Packed;
    void* buffer = packed && weight.dtype != out.dtype ? pool.scratch(thread, hidden * size) : nullptr;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = ids.ptr<int32_t>()[t] - vocabStart;
      char* target = out.ptr<char>() + t * out.strides[0] * elementSize(out.dtype);
      if (row < 0 || row >= weight.dims[0]) {
        std::memset(target, 0, static_cast<size_t>(hidden * elementSize(out.dtype)));
      } else if (!packed) {
        convertRow(out, target, weight.dtype, weight.ptr<char>() + row * weight.strides[0] * size, hidden);
      } else if (!buffer) {
        copyPackedRow(weight, row, target);
      } else {
        copyPackedRow(weight, row, buffer);
        convertRow(out, target, weight.dtype, buffer, hidden);
      }
    }
  });
}

}  // namespace kvasir::cpu
