#include "ops/rope.h"

#include "core/shape.h"
#include "cpu/rope.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

void check(Shapes& s, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin) {
  s.bind("q", q, {"numTokens", "numHeads", "headDim"}).bind("positions", positions, {"numTokens"});
  s.bind("cosSin", cosSin, {"maxPosition", "rotaryDim"});
  s.floating("q", q).denseRows("q", q).dtype("cosSin", cosSin, DType::Float32).denseRows("cosSin", cosSin);
  s.dtypeOneOf("positions", positions, {DType::Int32, DType::Int64}).contiguous("positions", positions);
  if (k) s.bind("k", *k, {"numTokens", "numKvHeads", "headDim"}).sameDtype("k", *k, "q", q).denseRows("k", *k);
  s.require(s["rotaryDim"] % 2 == 0 && s["rotaryDim"] <= s["headDim"], "rotaryDim of cosSin must be even and at most headDim of q");
}

}  // namespace

void rope(Stream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  Shapes s("rope");
  check(s, positions, q, k, cosSin);
  KVASIR_LAUNCH(stream, rope, positions, q, k, cosSin, isNeox);
}

void normRope(Stream& stream, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox) {
  Shapes s("normRope");
  check(s, positions, q, k, cosSin);
  s.bind("qWeight", qWeight, {"headDim"}).sameDtype("qWeight", qWeight, "q", q).contiguous("qWeight", qWeight);
  s.require(s["rotaryDim"] > 0, "rotaryDim of cosSin must be above 0");
  s.bind("kWeight", kWeight, {"headDim"}).sameDtype("kWeight", kWeight, "q", q).contiguous("kWeight", kWeight);
  KVASIR_LAUNCH(stream, normRope, positions, q, k, qWeight, kWeight, cosSin, eps, gemma, isNeox);
}

}  // namespace kvasir::ops
