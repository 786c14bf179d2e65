#include "ops/gemm.h"

#include "core/shape.h"
#include "cpu/gemm.h"
#include "ops/launch.h"

namespace kvasir::ops {

void packLinear(Stream& stream, const Tensor& weight) {
  Shapes s("packLinear");
  s.bind("weight", weight, {"outFeatures", "inFeatures"}).floating("weight", weight).contiguous("weight", weight);
  s.require(weight.layout == Layout::Strided, "weight is packed already");
  s.require(weight.dim(0) % cpu::kPackRows == 0, "weight must have a multiple of 64 rows");
  s.require(cpu::canPack(weight.dtype, weight.dim(1)), "a bfloat16 weight must have an even number of columns");
  KVASIR_LAUNCH(stream, packLinear, weight);
}

void linear(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  Shapes s("linear");
  s.bind("x", x, {"numTokens", "inFeatures"}).bind("out", out, {"numTokens", "outFeatures"}).floating("x", x);
  s.sameDtype("weight", weight, "x", x).dtypeOneOf("out", out, {x.dtype, DType::Float32});
  s.denseRows("x", x).denseRows("out", out);
  if (weight.layout == Layout::Packed) {
    s.bind("weight", weight, {"", "inFeatures"}).contiguous("weight", weight);
    s.require(weight.dim(0) % cpu::kPackRows == 0, "a packed weight must have a multiple of 64 rows");
    s.require(out.dim(1) <= weight.dim(0), "out must not have more columns than the packed weight has rows");
  } else {
    s.bind("weight", weight, {"outFeatures", "inFeatures"}).denseRows("weight", weight);
  }
  if (bias) s.bind("bias", *bias, {"outFeatures"}).dtypeOneOf("bias", *bias, {x.dtype, DType::Float32}).contiguous("bias", *bias);
  KVASIR_LAUNCH(stream, linear, out, x, weight, bias);
}

}  // namespace kvasir::ops
