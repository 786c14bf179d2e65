// The kernels of linear layers with quantized weights. Each queues its launches and checks nothing: linear.cu chose it.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/gemm/kernels.h"

namespace kvasir::cuda {

enum class QuantKind { Int4, Int8, Fp8 };

// Inputs in 16 bytes of a weight.
constexpr int64_t chunkInputs(QuantKind kind) { return kind == QuantKind::Int4 ? 32 : 16; }

// out[m, n] = x[m, k] w[n, k]^T + bias[n], w = (code - zero) * scale.
struct QuantArgs {
  GemmArgs gemm;         // weight: the codes, weightStride: bytes of a row of them
  const void* scales;    // [ceil(n / blockN), groups]
  const uint8_t* zeros;  // int4 only: [n, groups], or null for 8 everywhere
  DType scaleType;
  int groups, group;     // scales of a row, inputs of one: k when there is one
  int blockN;            // outputs of a scale
};

// Anything, in float32: sums are taken in the order of k.
void launchQuantFma(QuantKind kind, const QuantArgs& args, DType dtype, Chain chain);

// The others take float16 and bfloat16 with x, weight and their rows 16-byte aligned, and groups of whole chunks of 16 bytes.

// Batches of up to kSkinnyRows tokens: reads the weight about once. Products are those of exact codes; scales multiply float32 sums of a
// group. gemm.overlap: starts early and reads the weight before the kernel before has ended (CudaStream::mayReadEarly).
inline constexpr int64_t kSkinnyRows = 64;
template <QuantKind kKind>
void launchQuantSkinny(const QuantArgs& args, DType dtype, cudaStream_t stream);

// Tiles for any number of tokens. Each element is summed in the order of k in steps of 16, whatever the tile. int4 weights and
// weights with groups are rounded to x's type after scaling, others are exact.
template <QuantKind kKind>
void launchQuantTile(const QuantArgs& args, DType dtype, Chain chain);

// x rounded to 8 bits: codes [m, k], and a scale per row.
struct RoundedRows {
  void* codes;
  float* scales;
};

// codes[row] = x[row] / scale, scale = largest magnitude of the row / 448 (float8_e4m3) or / 127 (int8), 1 for zeros. A row with an infinity
// or NaN gets the scale NaN. fixedScale > 0 is used for all rows instead, and codes saturate.
void launchRoundRows(const RoundedRows& to, bool fp8, const void* x, DType dtype, int64_t rows, int64_t k, int64_t stride, float fixedScale, Chain chain);

// out = rounded int8 rows * int8 weight^T, exact up to the scales; one group. gemm.x and its stride are not used.
void launchInt8Gemm(const QuantArgs& args, const RoundedRows& x, DType dtype, Chain chain);

// out *= scale of its row of x and of its column, += bias; in place. Before, out is float32, or bfloat16 where it is to have 16 bits.
// Rows and n are multiples of 16 bytes.
void launchScaleProducts(const QuantArgs& args, const float* rowScales, DType dtype, Chain chain);

}  // namespace kvasir::cuda
