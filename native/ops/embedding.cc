#include "ops/embedding.h"

#include "core/shape.h"
#include "cpu/embedding.h"
#include "ops/launch.h"

namespace kvasir::ops {

void embedding(Stream& stream, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart) {
  Shapes s("embedding");
  s.bind("ids", ids, {"numTokens"}).bind("weight", weight, {"vocabSize", "hiddenSize"}).bind("out", out, {"numTokens", "hiddenSize"});
  s.floating("weight", weight).dtype("ids", ids, DType::Int32).contiguous("ids", ids).denseRows("out", out).denseRows("weight", weight);
  if (out.dtype != DType::Float32) s.sameDtype("out", out, "weight", weight);
  if (weight.layout == Layout::Packed) s.contiguous("weight", weight);
  KVASIR_LAUNCH(stream, embedding, out, weight, ids, vocabStart);
}

}  // namespace kvasir::ops
