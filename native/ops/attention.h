// Attention over the paged KV cache.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Varlen causal attention of this step's queries over pages (Kwon et al., 2023): tokens of sequence i are rows
// [queryStartLoc[i], queryStartLoc[i + 1]) of q; its query j sits at position seqLens[i] - queryLen + j and sees keys up to there.
//   out, q: [numTokens, numHeads, headDim] (q's tokens may be strided); kvCache: [numBlocks, 2, numKvHeads, 16, headDim];
//   blockTable: int32 [maxNumSeqs, maxBlocksPerSeq]; seqRows int32 [numSeqs]: row of blockTable; seqLens int32 [numSeqs]: keys, this
//   step's included; queryStartLoc: int32 [numSeqs + 1]. Rows of out past the last sequence become zero.
//   slidingWindow > 0: only the last so many keys; logitsSoftCap > 0: cap * tanh(logit / cap), after scale and before masks;
//   alibiSlopes float32 [numHeads]: + slope * (key position - query position); sinks float32 [numHeads]: an extra logit in the denominator.
//   kvCache has q's dtype and scales 1, or is float8_e4m3: its keys count kScale times, its values vScale times.
void pagedAttention(Stream& stream, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale);

}  // namespace kvasir::ops
