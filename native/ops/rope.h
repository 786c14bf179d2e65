// Rotary position embedding.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Rotates the first rotaryDim elements of every head of q and k in place: (a, b) -> (a cos - b sin, b cos + a sin), in float32.
//   positions: int32 or int64 [numTokens]; q: [numTokens, numHeads, headDim]; k: [numTokens, numKvHeads, headDim], optional.
//   Tokens of q and k may lie apart (views of merged projections).
//   cosSin: float32 [maxPosition, rotaryDim], rotaryDim / 2 cosines, then as many sines; see lib/nn/rope-table.ts.
//   isNeox: the pair of element i is i + rotaryDim / 2 (halves); otherwise pairs are (2i, 2i + 1) (GPT-J).
// A position outside the table is ERR_KVASIR_TENSOR at the next fence, and nothing is rotated.
void rope(Stream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox);

// RMSNorm of every head of q and k by itself (as rmsNorm of rows of headDim elements, ops/norm.h), then rope as above, in place; between
// the two the normalised head is rounded to the dtype.
//   qWeight, kWeight: [headDim], dtype of q. The other shapes are those of rope.
void normRope(Stream& stream, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox);

}  // namespace kvasir::ops
