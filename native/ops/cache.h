// The paged KV cache.
#pragma once

#include "core/shape.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Stores this step's keys and values: token t goes to slot slotMapping[t] = block * blockSize + offset; a negative slot writes nothing.
//   kvCache: [numBlocks, 2, numKvHeads, blockSize, headDim] contiguous; the arrangement inside a page is the backend's own.
//   k, v: [numTokens, numKvHeads, headDim] of the cache's dtype, tokens may be strided; slotMapping: int64 [numTokens].
//   A float8_e4m3 cache takes k and v of any floating type: it holds k / kScale and v / vScale, to nearest, ties to even, beyond +-448 cut
//   to that, NaN kept. For other caches the scales are 1.
void kvCacheWrite(Stream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale);

// What ops that use a cache check: `t` is floating and of the cache's dtype, or the cache is float8_e4m3 and the scales are valid.
void checkCacheType(Shapes& s, const Tensor& kvCache, const char* name, const Tensor& t, double kScale, double vScale);

}  // namespace kvasir::ops
