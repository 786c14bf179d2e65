// What an instruction set provides to the quantized linear layers, and the packed order that all of them read. Private to quant*.cc.
// Included by per-ISA files: declarations only.
//
// A packed weight consists of blocks of 32 rows, each in the bytes it had before: [K / unit][32] words of 32 bits, a word holding `unit`
// consecutive inputs k .. of one row, so that one vector load gives the same inputs of 16 (or 8, or 4) rows:
//   int4 (unit 8): nibble p of the word is input k + {0, 2, 4, 6, 1, 3, 5, 7}[p]. The low nibbles of the bytes are the inputs 0, 4, 1, 5 and
//                  the high ones 2, 6, 3, 7 (operands of vpdpbusd); nibbles s and s + 4 are neighbouring inputs (a pair for vdpbf16ps)
//   int8 (unit 4): byte i is 128 + input k + i: unsigned, as vpdpbusd wants it
//   fp8 (unit 4):  of four words together, the first halves hold inputs k, k + 1 of each row, the second halves k + 2, k + 3, so that
//                  interleaving the low and the high bytes of bfloat16s gives pairs in the order of rows
// Their scales and zero points are [groups][32] per block. A block keeps its place; rows past the last whole block stay canonical.
#pragma once

#include "core/dtype.h"
#include "cpu/isa.h"

namespace kvasir::cpu {

enum class QuantWeight { Int4, Int8, Fp8 };

inline constexpr int kQuantRows = 32;        // rows of a packed block
inline constexpr int kQuantTileRows = 6;     // rows of x per tile: 6 x 2 sums of a group and 6 x 2 totals of 16 floats
inline constexpr int64_t kQuantChunk = 128;  // inputs that share a scale of an 8-bit activation, at most

// 8-bit activations are cut twice. A chunk has one scale of the weight: it is a group, or up to 128 inputs of a longer one. A span has one
// scale of the activation: it is as many whole groups as 128 inputs hold, or one chunk. A scale of the activation for every group of 32
// would take 6% of a tile's time.
constexpr int64_t quantChunks(int64_t group) { return (group + kQuantChunk - 1) / kQuantChunk; }
constexpr int64_t quantSpanGroups(int64_t group) { return group < kQuantChunk ? kQuantChunk / group : 1; }
constexpr int64_t quantSpans(int64_t groups, int64_t group) {
  return (groups + quantSpanGroups(group) - 1) / quantSpanGroups(group) * quantChunks(group);
}

// 32 columns of the result for a tile of rows.
struct QuantTile {
  const void* x;          // of the type the kernel wants, padded with zeros to k
  int64_t xStride;        // bytes between rows
  const float* xFactors;  // [rows][xFactorStride], for 8-bit x: one before each span and one after the last, see quantize
  const void* xSums;      // [rows][xSumStride]; 8-bit x: int32 per chunk (see QuantSums); bfloat16 x with zeros: float per group
  int64_t xFactorStride, xSumStride;
  const char* weight;     // packed block
  const void* scales;     // [groups][32]
  DType scaleType;
  const uint8_t* zeros;   // [groups][32], or null for 8 everywhere
  int64_t k, group;       // k in whole words; the last group may be short
  float* c;               // [rows][32], overwritten
  const char* next;       // cache lines to fetch into L2 meanwhile
  int64_t nextLines;
};

using QuantTileKernel = void (*)(const QuantTile& tile);

enum class QuantInput { Float32, BFloat16, Int8 };

struct QuantKernels {
  QuantInput input;
  QuantTileKernel tiles[kQuantTileRows];  // [rows - 1]; null when the set has none
};

// How quantize() writes the sums of chunks, from which dot products start.
enum class QuantSums {
  Times8,    // -8 * sum: of int4 without zeros
  Times128,  // -128 * sum: of int8
  Words,     // -sum = low + 256 * high, as two 16-bit halves of a word: the factors of (zero, 256 * zero) in a 16-bit dot product
};

struct QuantRowKernels {
  // Rounds x[k] (floating) to q[padded] int8 with one scale per span, largest magnitude / 127. `interleave` orders every 8 inputs as the
  // nibbles of int4 words. factors[spans + 1]: a running total times factors[s] before span s is in units of that span's scale, and times
  // the last factor in units of 1; so that totals of integers need no other place for what is scaled already. An infinity or NaN makes
  // factors NaN. Null where no tiles take 8-bit x.
  void (*quantize)(DType from, const void* x, int64_t k, int64_t padded, int64_t group, bool interleave, QuantSums kind, int8_t* q,
                   float* factors, int32_t* sums);
  // sums[g] = the sum of group g of x.
  void (*groupSums)(DType from, const void* x, int64_t k, int64_t group, float* sums);
  // Rounds w[k] / scale to fp8, scale = largest magnitude / 448, or 1; returns it.
  float (*toFp8)(DType from, const void* w, int64_t k, uint8_t* target);
};

namespace portable {
QuantKernels quantKernels(QuantWeight weight);
QuantRowKernels quantRowKernels();
}  // namespace portable
#ifdef KVASIR_X86
namespace avx2 {
QuantKernels quantKernels(QuantWeight weight);
QuantRowKernels quantRowKernels();
QuantKernels quantInt4DotKernels(bool zeros);  // 8-bit x
}  // namespace avx2
namespace avx512 {
QuantKernels quantKernels(QuantWeight weight);
QuantRowKernels quantRowKernels();
}  // namespace avx512
namespace avx512bf16 {
QuantKernels quantDotKernels(QuantWeight weight, bool zeros);  // int4, int8 with 8-bit x
QuantKernels quantInt4Kernels(bool zeros);                     // bfloat16 x
}  // namespace avx512bf16
namespace avx512vbmi {
QuantKernels quantFp8Kernels();  // bfloat16 x
}  // namespace avx512vbmi
#endif

}  // namespace kvasir::cpu
