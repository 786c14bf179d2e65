// What an instruction set provides to cpu::linear. Private to gemm*.cc. Included by per-ISA files: declarations only.
#pragma once

#include "core/dtype.h"
#include "cpu/isa.h"

namespace kvasir::cpu {

inline constexpr int kTileRows = 6;   // rows of x per tile: 6 x 4 accumulators of 16 floats leave 8 of 32 registers for operands
inline constexpr int kTileCols = 64;  // rows of a packed block

// c[rows][64] (+)= x[rows][k] @ w^T, w being k steps of a packed block; without `accumulate` c is overwritten. x rows are xStride
// elements apart. Meanwhile `nextLines` cache lines from `next` are fetched into L2: the weights the caller needs after these.
using TileKernel = void (*)(const void* x, int64_t xStride, const void* w, int64_t k, float* c, bool accumulate, const char* next,
                            int64_t nextLines);

struct GemmKernels {
  DType activation;  // what the tiles read: linear converts x to it
  TileKernel tiles[kTileRows];  // [rows - 1]
};

// Conversions between rows of any floating type and float32.
struct RowKernels {
  void (*widen)(DType from, const void* source, int64_t n, float* target);
  // target[i] = round(c[i] + bias[i]); bias may be null.
  void (*store)(const float* c, const float* bias, int64_t n, DType to, void* target);
};

// `weight` is the dtype of the packed block.
namespace portable {
GemmKernels gemmKernels(DType weight);
RowKernels gemmRowKernels();
}  // namespace portable
#ifdef KVASIR_X86
namespace avx2 {
GemmKernels gemmKernels(DType weight);
RowKernels gemmRowKernels();
}  // namespace avx2
namespace avx512 {
GemmKernels gemmKernels(DType weight);
RowKernels gemmRowKernels();
}  // namespace avx512
namespace avx512bf16 {
GemmKernels gemmKernels();  // bfloat16 weights and activations
}  // namespace avx512bf16
#endif

}  // namespace kvasir::cpu
