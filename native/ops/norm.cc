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

void checkResidual(Shapes& s, const Tensor& residual, const Tensor& x) {
  s.bind("residual", residual, {"numTokens", "hiddenSize"}).sameDtype("residual", residual, "x", x).denseRows("residual", residual);
}

void checkBias(Shapes& s, const MaybeTensor& bias, const Tensor& x) {
  if (bias) s.bind("bias", *bias, {"hiddenSize"}).sameDtype("bias", *bias, "x", x).contiguous("bias", *bias);
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
  checkResidual(s, residual, x);
  KVASIR_LAUNCH(stream, addRmsNorm, out, x, residual, weight, eps, gemma);
}

void layerNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps) {
  Shapes s("layerNorm");
  check(s, out, x, weight);
  checkBias(s, bias, x);
  KVASIR_LAUNCH(stream, layerNorm, out, x, weight, bias, eps);
}

void addLayerNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps) {
  Shapes s("addLayerNorm");
  check(s, out, x, weight);
  checkResidual(s, residual, x);
  checkBias(s, bias, x);
  KVASIR_LAUNCH(stream, addLayerNorm, out, x, residual, weight, bias, eps);
}

void add(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& y) {
  Shapes s("add");
  s.bind("x", x, {"numTokens", "hiddenSize"}).bind("y", y, {"numTokens", "hiddenSize"}).bind("out", out, {"numTokens", "hiddenSize"});
  s.floating("x", x).sameDtype("y", y, "x", x).sameDtype("out", out, "x", x).denseRows("x", x).denseRows("y", y).denseRows("out", out);
  KVASIR_LAUNCH(stream, add, out, x, y);
}

}  // namespace kvasir::ops
