// The paged KV cache.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Stores this step's keys and values: token t goes to slot slotMapping[t] = block * blockSize + offset; a negative slot writes nothing.
//   kvCache: [numBlocks, 2, numKvHeads, blockSize, headDim] contiguous; the arrangement inside a page is the backend's own.
//   k, v: [numTokens, numKvHeads, headDim] of the cache's dtype, tokens may be strided; slotMapping: int64 [numTokens].
void kvCacheWrite(Stream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping);

}  // namespace kvasir::ops
