#include "ops/attention.h"

#include <utility>

#include "core/shape.h"
#include "cpu/attention.h"
#include "ops/cache.h"
#include "ops/launch.h"

namespace kvasir::ops {

void pagedAttention(Stream& stream, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale) {
  Shapes s("pagedAttention");
  s.bind("q", q, {"numTokens", "numHeads", "headDim"}).bind("out", out, {"numTokens", "numHeads", "headDim"});
  s.bind("kvCache", kvCache, {"numBlocks", "", "numKvHeads", "", "headDim"}).bind("blockTable", blockTable, {"", ""});
  s.bind("seqRows", seqRows, {"numSeqs"}).bind("seqLens", seqLens, {"numSeqs"});
  checkCacheType(s, kvCache, "q", q, kScale, vScale);
  s.sameDtype("out", out, "q", q);
  s.denseRows("q", q).contiguous("out", out).contiguous("kvCache", kvCache);
  const std::pair<const char*, const Tensor*> indices[] = {{"blockTable", &blockTable}, {"seqRows", &seqRows}, {"seqLens", &seqLens}, {"queryStartLoc", &queryStartLoc}};
  for (const auto& [name, tensor] : indices) s.dtype(name, *tensor, DType::Int32).contiguous(name, *tensor);
  s.require(queryStartLoc.rank == 1 && queryStartLoc.dims[0] == seqLens.dims[0] + 1, "queryStartLoc must have numSeqs + 1 entries");
  s.require(kvCache.dims[1] == 2 && kvCache.dims[3] == 16, "kvCache must be [numBlocks, 2, numKvHeads, 16, headDim]");
  s.require(kvCache.dims[2] > 0 && q.dims[1] % kvCache.dims[2] == 0, "numHeads must be a multiple of numKvHeads");
  s.require(q.dims[2] % 2 == 0, "headDim must be even").require(slidingWindow >= 0, "slidingWindow must not be negative");
  s.require(logitsSoftCap >= 0, "logitsSoftCap must not be negative");
  for (const auto& [name, tensor] : {std::pair{"alibiSlopes", &alibiSlopes}, std::pair{"sinks", &sinks}})
    if (*tensor) s.bind(name, **tensor, {"numHeads"}).dtype(name, **tensor, DType::Float32).contiguous(name, **tensor);
  KVASIR_LAUNCH(stream, pagedAttention, out, q, kvCache, blockTable, seqRows, seqLens, queryStartLoc, scale, slidingWindow, logitsSoftCap, alibiSlopes, sinks,
                kScale, vScale);
}

}  // namespace kvasir::ops
