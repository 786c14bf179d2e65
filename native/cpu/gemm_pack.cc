// The packed weight layout: writing it in place and reading single rows back.
#include <algorithm>
#include <cstring>

#include "cpu/gemm.h"

namespace kvasir::cpu {

namespace {

// target[units][64] = source[64][units]^T. Both bfloat16 pairs and float32 are 32-bit units.
template <class Unit>
void transposeBlock(const Unit* source, int64_t units, Unit* target) {
  constexpr int64_t kLine = 64 / sizeof(Unit);  // one cache line of each row at a time
  for (int64_t u0 = 0; u0 < units; u0 += kLine) {
    const int64_t width = std::min(kLine, units - u0);
    for (int64_t row = 0; row < kPackRows; row += 4) {
      const Unit* s = source + row * units + u0;
      Unit* t = target + u0 * kPackRows + row;
      for (int64_t u = 0; u < width; ++u, t += kPackRows) {
        t[0] = s[u];
        t[1] = s[units + u];
        t[2] = s[2 * units + u];
        t[3] = s[3 * units + u];
      }
    }
  }
}

template <class Unit>
void packBlocks(Pool& pool, char* data, int64_t blocks, int64_t units) {
  const int64_t bytes = kPackRows * units * static_cast<int64_t>(sizeof(Unit));
  pool.run(blocks, [&](int64_t b, int thread) {
    auto* copy = static_cast<Unit*>(pool.scratch(thread, bytes));
    char* block = data + b * bytes;
    std::memcpy(copy, block, static_cast<size_t>(bytes));
    transposeBlock(copy, units, reinterpret_cast<Unit*>(block));
  });
}

template <class Unit>
void copyUnits(const Tensor& packed, int64_t row, int64_t units, void* dst) {
  const Unit* source = packed.ptr<const Unit>() + row / kPackRows * kPackRows * units + row % kPackRows;
  for (int64_t u = 0; u < units; ++u) std::memcpy(static_cast<char*>(dst) + u * sizeof(Unit), source + u * kPackRows, sizeof(Unit));
}

}  // namespace

void packLinear(Pool& pool, const Tensor& weight) {
  const int64_t blocks = weight.dim(0) / kPackRows, k = weight.dim(1);
  char* data = weight.ptr<char>();
  switch (weight.dtype) {
    case DType::Float32: return packBlocks<uint32_t>(pool, data, blocks, k);
    case DType::BFloat16: return packBlocks<uint32_t>(pool, data, blocks, k / 2);
    default: return packBlocks<uint16_t>(pool, data, blocks, k);
  }
}

void copyPackedRow(const Tensor& packed, int64_t row, void* dst) {
  const int64_t k = packed.dim(1);
  switch (packed.dtype) {
    case DType::Float32: return copyUnits<uint32_t>(packed, row, k, dst);
    case DType::BFloat16: return copyUnits<uint32_t>(packed, row, k / 2, dst);
    default: return copyUnits<uint16_t>(packed, row, k, dst);
  }
}

}  // namespace kvasir::cpu
