#include "ops/activation.h"

#include "core/shape.h"
#include "cpu/activation.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

void check(const char* op, const Tensor& out, const Tensor& x, bool gated) {
  Shapes s(op);
  s.bind("out", out, {"numTokens", "size"}).bind("x", x, {"numTokens", gated ? "2 * size" : "size"});
  if (gated) s.require(s["2 * size"] == 2 * s["size"], "rows of x must be twice as long as those of out (gate, then up)");
  s.floating("x", x).sameDtype("out", out, "x", x).denseRows("x", x).denseRows("out", out);
}

}  // namespace

void siluAndMul(Stream& stream, const Tensor& out, const Tensor& x) {
  check("siluAndMul", out, x, true);
  KVASIR_LAUNCH(stream, siluAndMul, out, x);
}

void geluAndMul(Stream& stream, const Tensor& out, const Tensor& x) {
  check("geluAndMul", out, x, true);
  KVASIR_LAUNCH(stream, geluAndMul, out, x);
}

void geluTanhAndMul(Stream& stream, const Tensor& out, const Tensor& x) {
  check("geluTanhAndMul", out, x, true);
  KVASIR_LAUNCH(stream, geluTanhAndMul, out, x);
}

void silu(Stream& stream, const Tensor& out, const Tensor& x) {
  check("silu", out, x, false);
  KVASIR_LAUNCH(stream, silu, out, x);
}

void gelu(Stream& stream, const Tensor& out, const Tensor& x) {
  check("gelu", out, x, false);
  KVASIR_LAUNCH(stream, gelu, out, x);
}

void geluTanh(Stream& stream, const Tensor& out, const Tensor& x) {
  check("geluTanh", out, x, false);
  KVASIR_LAUNCH(stream, geluTanh, out, x);
}

void relu(Stream& stream, const Tensor& out, const Tensor& x) {
  check("relu", out, x, false);
  KVASIR_LAUNCH(stream, relu, out, x);
}

}  // namespace kvasir::ops
