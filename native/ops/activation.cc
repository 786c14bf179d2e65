#include "ops/activation.h"

#include <cmath>

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

double roundTo(DType dtype, double value) {
  const float nearest = static_cast<float>(value);
  switch (dtype) {
    case DType::Float16: return toFloat(fromFloat<f16>(nearest));
    case DType::BFloat16: return toFloat(fromFloat<bf16>(nearest));
    default: return nearest;
  }
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

void scale(Stream& stream, const Tensor& out, const Tensor& x, double factor) {
  check("scale", out, x, false);
  KVASIR_LAUNCH(stream, scale, out, x, roundTo(x.dtype, factor));
}

void softCap(Stream& stream, const Tensor& out, const Tensor& x, double cap) {
  check("softCap", out, x, false);
  Shapes("softCap").require(cap > 0 && std::isfinite(cap), "cap must be a positive number");
  KVASIR_LAUNCH(stream, softCap, out, x, cap);
}

}  // namespace kvasir::ops
