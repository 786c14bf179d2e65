#include "ops/cache.h"

#include "core/shape.h"
#include "cpu/cache.h"
#include "ops/launch.h"

namespace kvasir::ops {

void kvCacheWrite(Stream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping) {
  Shapes s("kvCacheWrite");
  s.bind("kvCache", kvCache, {"numBlocks", "", "numKvHeads", "blockSize", "headDim"});
  s.bind("k", k, {"numTokens", "numKvHeads", "headDim"}).bind("v", v, {"numTokens", "numKvHeads", "headDim"});
  s.bind("slotMapping", slotMapping, {"numTokens"}).dtype("slotMapping", slotMapping, DType::Int64).contiguous("slotMapping", slotMapping);
  s.floating("kvCache", kvCache).sameDtype("k", k, "kvCache", kvCache).sameDtype("v", v, "kvCache", kvCache).contiguous("kvCache", kvCache);
  s.denseRows("k", k).denseRows("v", v);
  s.require(kvCache.dims[1] == 2, "kvCache must have keys and values: [numBlocks, 2, ...]").require(kvCache.dims[3] == 16, "blockSize must be 16");
  s.require(kvCache.dims[4] % 2 == 0, "headDim must be even");
  KVASIR_LAUNCH(stream, kvCacheWrite, kvCache, k, v, slotMapping);
}

}  // namespace kvasir::ops
