#include "ops/cache.h"

#include <cmath>

#include "cpu/cache.h"
#include "ops/launch.h"

namespace kvasir::ops {

void checkCacheType(Shapes& s, const Tensor& kvCache, const char* name, const Tensor& t, double kScale, double vScale) {
  s.floating(name, t);
  if (kvCache.dtype == DType::Float8E4M3) {
    s.require(kScale > 0 && vScale > 0 && std::isfinite(kScale) && std::isfinite(vScale), "kScale and vScale must be finite and above 0");
  } else {
    s.sameDtype("kvCache", kvCache, name, t).require(kScale == 1 && vScale == 1, "kScale and vScale must be 1 unless kvCache is float8_e4m3");
  }
}

void kvCacheWrite(Stream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale) {
  Shapes s("kvCacheWrite");
  s.bind("kvCache", kvCache, {"numBlocks", "", "numKvHeads", "blockSize", "headDim"});
  s.bind("k", k, {"numTokens", "numKvHeads", "headDim"}).bind("v", v, {"numTokens", "numKvHeads", "headDim"});
  s.bind("slotMapping", slotMapping, {"numTokens"}).dtype("slotMapping", slotMapping, DType::Int64).contiguous("slotMapping", slotMapping);
  checkCacheType(s, kvCache, "k", k, kScale, vScale);
  s.sameDtype("v", v, "k", k).contiguous("kvCache", kvCache);
  s.denseRows("k", k).denseRows("v", v);
  s.require(kvCache.dims[1] == 2, "kvCache must have keys and values: [numBlocks, 2, ...]").require(kvCache.dims[3] == 16, "blockSize must be 16");
  s.require(kvCache.dims[4] % 2 == 0, "headDim must be even");
  KVASIR_LAUNCH(stream, kvCacheWrite, kvCache, k, v, slotMapping, kScale, vScale);
}

}  // namespace kvasir::ops
