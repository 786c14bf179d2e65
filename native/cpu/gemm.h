// Linear layers on the CPU. Weights are packed once, in place, into blocks of 64 rows; every kernel reads that layout.
//
// Packed layout of a weight [N, K] (N a multiple of 64), block b = rows 64b .. 64b+63, each block in the bytes it had before:
//   float32, float16: [N/64][K][64]         one vector load gives one k of 16 rows
//   bfloat16:         [N/64][K/2][64][2]    one vector load gives a pair of k of 16 rows: an operand of vdpbf16ps
// A block keeps its place, so a view of rows [64a, 64b) of a packed tensor is itself a packed tensor.
#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

inline constexpr int64_t kPackRows = 64;

// Whether a weight of this type and inner size has a packed form (a pair layout needs an even K).
constexpr bool canPack(DType dtype, int64_t k) { return isFloating(dtype) && (dtype != DType::BFloat16 || k % 2 == 0); }

// Repacks weight [N, K] in place; takes one block of scratch memory per thread.
void packLinear(Pool& pool, const Tensor& weight);

// out [M, N] = x [M, K] @ weight [>= N, K]^T + bias [N], accumulated in float32 and rounded once. Rows of out and x may be strided.
// With one weight layout and instruction set, a row of out depends on its row of x alone, bit for bit: every row is summed in the
// order of k, whatever M is and however rows are tiled.
void linear(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);

// Writes row `row` of a packed weight to dst, K elements of its dtype.
void copyPackedRow(const Tensor& packed, int64_t row, void* dst);

}  // namespace kvasir::cpu
