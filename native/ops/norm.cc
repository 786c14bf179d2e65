#include "ops/norm.h"

#include "core/shape.h"
#include "cpu/norm.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

void check(Shapes& s, const Tensor& out, const Tensor& x, const Tensor& weight) {
  s.bind("x", x, {"numTokens", "hiddenSize"}).bind("out", out, {"numTokens", "hiddenSize"}).bind("weight", weight, {"hiddenSize"});
  s.floating("x", x).sameDtype("out", out, "x", x).sameDtype("weight", weight, "x", x);
  s.denseRows("x", x).denseRows("out", out).contiguous("weight", weight);
}

}  // namespace

void rmsNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma) {
  Shapes s("rmsNorm");
  check(s, out, x, weight);
  KVASIR_LAUNCH(stream, rmsNorm, out, x, weight, eps, gemma);
}

void addRmsNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma) {
  Shapes s("addRmsNorm");
  check(s, out, x, weight);
  s.bind("residual", residual, {"numTokens", "hiddenSize"}).sameDtype("residual", residual, "x", x).denseRows("residual", residual);
  KVASIR_LAUNCH(stream, addRmsNorm, out, x, residual, weight, eps, gemma);
}

}  // namespace kvasir::ops
