#include "ops/rope.h"

#include "core/shape.h"
#include "cpu/rope.h"
#include "ops/launch.h"

namespace kvasir::ops {

void rope(Stream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  Shapes s("rope");
  s.bind("q", q, {"numTokens", "numHeads", "headDim"}).bind("positions", positions, {"numTokens"});
  s.bind("cosSin", cosSin, {"maxPosition", "rotaryDim"});
  s.floating("q", q).denseRows("q", q).dtype("cosSin", cosSin, DType::Float32).denseRows("cosSin", cosSin);
  s.dtypeOneOf("positions", positions, {DType::Int32, DType::Int64}).contiguous("positions", positions);
  if (k) s.bind("k", *k, {"numTokens", "numKvHeads", "headDim"}).sameDtype("k", *k, "q", q).denseRows("k", *k);
  s.require(s["rotaryDim"] % 2 == 0 && s["rotaryDim"] <= s["headDim"], "rotaryDim of cosSin must be even and at most headDim of q");
  KVASIR_LAUNCH(stream, rope, positions, q, k, cosSin, isNeox);
}

}  // namespace kvasir::ops
