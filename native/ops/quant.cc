#include "ops/quant.h"

#include "core/shape.h"
#include "cpu/quant.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool known(int64_t format) { return format >= 0 && format <= static_cast<int64_t>(PackFormat::Compressed); }

// What the linear ops have in common, but for the weight.
void checkLinear(Shapes& s, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  s.bind("x", x, {"numTokens", "inFeatures"}).bind("out", out, {"numTokens", "outFeatures"}).floating("x", x);
  s.dtypeOneOf("out", out, {x.dtype, DType::Float32}).denseRows("x", x).denseRows("out", out);
  s.contiguous("weight", weight).require(x.dim(1) > 0, "inFeatures must be positive");
  if (bias) s.bind("bias", *bias, {"outFeatures"}).dtypeOneOf("bias", *bias, {x.dtype, DType::Float32}).contiguous("bias", *bias);
}

// scales and zeros of groups of `unit` inputs or more.
void checkGroups(Shapes& s, int64_t inFeatures, int64_t unit, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros) {
  s.bind("scales", scales, {"outFeatures", "groups"}).floating("scales", scales).contiguous("scales", scales);
  const int64_t groups = scales.dim(1);
  s.require(groups > 0 && inFeatures > 0 && inFeatures % groups == 0, "inFeatures must be a multiple of the number of groups");
  s.require(groups == 1 || inFeatures / groups % unit == 0, "a group must be all inputs, or a multiple of 8 (int4) or 4 (int8) of them");
  s.require(scales.layout == weight.layout, "weight and scales must be packed together");
  if (!zeros) return;
  s.bind("zeros", *zeros, {"outFeatures", "groups"}).dtype("zeros", *zeros, DType::UInt8).contiguous("zeros", *zeros);
  s.require(zeros->layout == weight.layout, "weight and zeros must be packed together");
}

void checkPack(Shapes& s, const Tensor& weight) {
  s.contiguous("weight", weight).require(weight.layout == Layout::Strided, "weight is packed already");
}

}  // namespace

void repackInt4(Stream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  Shapes s("repackInt4");
  s.bind("out", out, {"outFeatures", ""}).dtype("out", out, DType::UInt8).contiguous("out", out);
  s.dtype("source", source, DType::Int32).contiguous("source", source).require(known(format), "format must be 0 .. 3");
  const int64_t rows = out.dim(0), k = out.dim(1) * 2;
  s.bind("source", source, {"", ""});
  if (static_cast<PackFormat>(format) == PackFormat::Compressed)
    s.require(source.dim(0) == rows && source.dim(1) == ceilDiv(k, 8), "source must be [outFeatures, ceil(inFeatures / 8)]");
  else if (static_cast<PackFormat>(format) == PackFormat::Awq)
    s.require(source.dim(0) == k && source.dim(1) * 8 == rows, "source must be [inFeatures, outFeatures / 8]");
  else
    s.require(source.dim(0) * 8 == k && source.dim(1) == rows, "source must be [inFeatures / 8, outFeatures]");
  KVASIR_LAUNCH(stream, repackInt4, out, source, format);
}

void unpackZeros(Stream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  Shapes s("unpackZeros");
  s.bind("out", out, {"outFeatures", "groups"}).dtype("out", out, DType::UInt8).contiguous("out", out);
  s.dtype("source", source, DType::Int32).contiguous("source", source).require(known(format), "format must be 0 .. 3");
  if (static_cast<PackFormat>(format) == PackFormat::Compressed) {
    s.bind("source", source, {"", "groups"});
    s.require(source.dim(0) == ceilDiv(out.dim(0), 8), "source must have ceil(outFeatures / 8) rows");
  } else {
    s.bind("source", source, {"groups", ""});
    s.require(source.dim(1) * 8 == out.dim(0), "source must have outFeatures / 8 columns");
  }
  KVASIR_LAUNCH(stream, unpackZeros, out, source, format);
}

void repackInt8(Stream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  Shapes s("repackInt8");
  s.bind("out", out, {"outFeatures", "inFeatures"}).dtype("out", out, DType::Int8).contiguous("out", out);
  s.dtype("source", source, DType::Int32).contiguous("source", source);
  s.require(known(format) && static_cast<PackFormat>(format) != PackFormat::Awq, "format must be gptq, gptq_v2 or compressed");
  const int64_t rows = out.dim(0), k = out.dim(1);
  s.bind("source", source, {"", ""});
  if (static_cast<PackFormat>(format) == PackFormat::Compressed)
    s.require(source.dim(0) == rows && source.dim(1) == ceilDiv(k, 4), "source must be [outFeatures, ceil(inFeatures / 4)]");
  else
    s.require(source.dim(0) * 4 == k && source.dim(1) == rows, "source must be [inFeatures / 4, outFeatures]");
  KVASIR_LAUNCH(stream, repackInt8, out, source, format);
}

void packInt4(Stream& stream, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros) {
  Shapes s("packInt4");
  s.bind("weight", weight, {"outFeatures", ""}).dtype("weight", weight, DType::UInt8);
  checkPack(s, weight);
  checkGroups(s, weight.dim(1) * 2, 8, weight, scales, zeros);
  s.require(weight.dim(1) % 4 == 0, "inFeatures must be a multiple of 8");
  KVASIR_LAUNCH(stream, packInt4, weight, scales, zeros);
}

void packInt8(Stream& stream, const Tensor& weight, const Tensor& scales) {
  Shapes s("packInt8");
  s.bind("weight", weight, {"outFeatures", ""}).dtype("weight", weight, DType::Int8);
  checkPack(s, weight);
  checkGroups(s, weight.dim(1), 4, weight, scales, std::nullopt);
  s.require(weight.dim(1) % 4 == 0, "inFeatures must be a multiple of 4");
  KVASIR_LAUNCH(stream, packInt8, weight, scales);
}

void packFp8(Stream& stream, const Tensor& weight) {
  Shapes s("packFp8");
  s.bind("weight", weight, {"outFeatures", ""}).dtype("weight", weight, DType::Float8E4M3);
  checkPack(s, weight);
  s.require(weight.dim(1) % 4 == 0, "inFeatures must be a multiple of 4");
  KVASIR_LAUNCH(stream, packFp8, weight);
}

void linearInt4(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool dynamicActivation) {
  Shapes s("linearInt4");
  checkLinear(s, out, x, weight, bias);
  s.bind("weight", weight, {"outFeatures", ""}).dtype("weight", weight, DType::UInt8);
  s.require(weight.dim(1) * 2 == x.dim(1), "weight must have inFeatures / 2 columns");
  checkGroups(s, x.dim(1), 8, weight, scales, zeros);
  KVASIR_LAUNCH(stream, linearInt4, out, x, weight, scales, zeros, bias, dynamicActivation);
}

void linearInt8(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation) {
  Shapes s("linearInt8");
  checkLinear(s, out, x, weight, bias);
  s.bind("weight", weight, {"outFeatures", "inFeatures"}).dtype("weight", weight, DType::Int8);
  checkGroups(s, x.dim(1), 4, weight, scales, std::nullopt);
  KVASIR_LAUNCH(stream, linearInt8, out, x, weight, scales, bias, dynamicActivation);
}

void linearFp8(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
               int64_t blockN, int64_t blockK, int64_t activation, double inputScale) {
  Shapes s("linearFp8");
  checkLinear(s, out, x, weight, bias);
  s.bind("weight", weight, {"outFeatures", "inFeatures"}).dtype("weight", weight, DType::Float8E4M3);
  s.dtype("scales", scales, DType::Float32).contiguous("scales", scales);
  s.require(blockN > 0 && blockK > 0, "blockN and blockK must be positive");
  s.require(blockK % 4 == 0 || blockK >= x.dim(1), "blockK must be a multiple of 4, or all inputs");
  const int64_t rows = ceilDiv(out.dim(1), blockN), columns = ceilDiv(x.dim(1), blockK);
  const bool matrix = scales.rank == 2 && scales.dim(0) == rows && scales.dim(1) == columns;
  const bool perRow = scales.rank == 1 && columns == 1 && scales.dim(0) == rows;
  s.require(matrix || perRow, "scales must be [ceil(outFeatures / blockN), ceil(inFeatures / blockK)], or [rows] when there is one column");
  s.require(activation >= 0 && activation <= 2, "activation must be 0, 1 or 2");
  s.require(activation != 2 || inputScale > 0, "a static inputScale must be positive");
  KVASIR_LAUNCH(stream, linearFp8, out, x, weight, scales, bias, blockN, blockK, activation, inputScale);
}

void quantizeFp8(Stream& stream, const Tensor& weight, const Tensor& scales, const Tensor& source) {
  Shapes s("quantizeFp8");
  s.bind("source", source, {"outFeatures", "inFeatures"}).floating("source", source).denseRows("source", source);
  s.bind("weight", weight, {"outFeatures", "inFeatures"}).dtype("weight", weight, DType::Float8E4M3).contiguous("weight", weight);
  s.require(weight.layout == Layout::Strided && source.layout == Layout::Strided, "weight and source must not be packed");
  s.dtype("scales", scales, DType::Float32).contiguous("scales", scales);
  s.require(scales.numel() == weight.dim(0) && scales.rank <= 2, "scales must be [outFeatures] or [outFeatures, 1]");
  KVASIR_LAUNCH(stream, quantizeFp8, weight, scales, source);
}

}  // namespace kvasir::ops
