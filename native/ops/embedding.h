// Token embedding, also of a vocabulary shard.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// out[t, :] = weight[ids[t] - vocabStart, :], zeros for ids outside [vocabStart, vocabStart + vocabSize): the shards of a
// vocabulary-parallel table add up to the whole.
//   out: [numTokens, hiddenSize]; weight: [vocabSize, hiddenSize], plain or packed for `linear`; ids: int32 [numTokens].
//   out has weight's dtype, or float32 of a 16-bit weight.
void embedding(Stream& stream, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart);

}  // namespace kvasir::ops
