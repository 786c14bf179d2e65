// Linear layers with quantized weights, and the way of a checkpoint's packed integers into them.
//
// Canonical storage, row-major, what loading fills:
//   int4: weight uint8 [outFeatures, inFeatures / 2], element k of a row in byte k / 2, even k in the low nibble;
//         scales [outFeatures, groups], zeros uint8 [outFeatures, groups] (0 .. 16) or absent for 8 everywhere. w = (q - zero) * scale
//   int8: weight int8 [outFeatures, inFeatures], scales [outFeatures, groups]. w = q * scale
//   fp8:  weight float8_e4m3 [outFeatures, inFeatures], scales float32 [ceil(outFeatures / blockN), ceil(inFeatures / blockK)], or
//         [outFeatures] for one scale per row. w = q * scale
// A group is inFeatures / groups inputs: all of them, or a multiple of 8 for int4 and of 4 for int8. scales of int4 and int8 are float32,
// float16 or bfloat16; the type the checkpoint has them in costs the least memory traffic and no accuracy.
//
// pack*() rearranges a weight in place, together with its scales and zeros, into the order of the backend; the caller marks these tensors
// as packed. Packed or not, any number of rows works; on the CPU unpacked weights are slow, and so are the last outFeatures % 32 rows.
#pragma once

#include "core/pack_format.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// out (canonical int4) = source, by PackFormat:
//   Gptq, GptqV2: int32 [inFeatures / 8, outFeatures], nibble j of a word is input 8 * i + j
//   Awq:          int32 [inFeatures, outFeatures / 8], nibble j of a word is output 8 * i + {0, 2, 4, 6, 1, 3, 5, 7}[j]
//   Compressed:   int32 [outFeatures, ceil(inFeatures / 8)], nibble j of a word is input 8 * i + j
void repackInt4(Stream& stream, const Tensor& out, const Tensor& source, int64_t format);

// out uint8 [outFeatures, groups] = the zero points in source:
//   Gptq (stored less one), GptqV2, Awq (its order of outputs): int32 [groups, outFeatures / 8]
//   Compressed: int32 [ceil(outFeatures / 8), groups]
void unpackZeros(Stream& stream, const Tensor& out, const Tensor& source, int64_t format);

// out int8 [outFeatures, inFeatures] = bytes of source less 128. Gptq, GptqV2: int32 [inFeatures / 4, outFeatures];
// Compressed: int32 [outFeatures, ceil(inFeatures / 4)].
void repackInt8(Stream& stream, const Tensor& out, const Tensor& source, int64_t format);

// inFeatures must be a multiple of 8 for int4, and of 4 for the others.
void packInt4(Stream& stream, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros);
void packInt8(Stream& stream, const Tensor& weight, const Tensor& scales);
void packFp8(Stream& stream, const Tensor& weight);

// out = x @ w^T + bias. x: [numTokens, inFeatures] floating; out: [numTokens, outFeatures] of x's dtype or float32; rows of both may be
// strided; bias: [outFeatures] of x's dtype or float32. A row of out depends on its row of x only, bit for bit, on the CPU.
//   float32 x: the arithmetic of float32 weights, whatever the flags say.
//   dynamicActivation = false: weights are exact, products and sums are those of x's dtype with float32 sums.
//   dynamicActivation = true: x may be rounded to int8 with one scale per token and group of the weight (CPU: per token and at most 128
//   inputs, which are part of a group or several whole ones; instruction sets without a fast 8-bit dot product do not round).
void linearInt4(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool dynamicActivation);
void linearInt8(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation);

// activation: 0 = x is used as it is, 1 = x may be rounded to fp8 with one scale per token, 2 = the same with the scale inputScale.
// The CPU never rounds x: it multiplies in bfloat16 or float32. blockK: a multiple of 4, or at least inFeatures.
void linearFp8(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
               int64_t blockN, int64_t blockK, int64_t activation, double inputScale);

// Rounds each row of source [outFeatures, inFeatures] (floating, dense rows) to weight float8_e4m3 with scales float32 [outFeatures] or
// [outFeatures, 1] = largest magnitude of the row / 448 (1 for a row of zeros); to nearest, ties to even.
void quantizeFp8(Stream& stream, const Tensor& weight, const Tensor& scales, const Tensor& source);

}  // namespace kvasir::ops
