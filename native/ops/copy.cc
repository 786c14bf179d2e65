#include "ops/copy.h"

#include <utility>

#include "core/file_rows.h"
#include "core/shape.h"
#include "cpu/copy.h"
#include "ops/launch.h"

namespace kvasir::ops {

namespace {

bool convertible(DType from, DType to) {
  return from == to || ((isFloating(from) || from == DType::Float8E4M3) && isFloating(to)) || (from == DType::Int32 && to == DType::Int64) ||
         (from == DType::Int64 && to == DType::Int32);
}

void checkConversion(const char* op, DType from, DType to) {
  if (!convertible(from, to)) fail(kTensorError, "%s: %s cannot be converted to %s", op, dtypeName(from), dtypeName(to));
}

}  // namespace

void copy(Stream& stream, const Tensor& out, const Tensor& x) {
  bool same = out.rank == x.rank;
  for (int i = 0; same && i < x.rank; ++i) same = out.dims[i] == x.dims[i];
  if (!same) fail(kTensorError, "copy: out is %s but x is %s; dims must be equal", describe(out).c_str(), describe(x).c_str());
  checkConversion("copy", x.dtype, out.dtype);
  KVASIR_LAUNCH(stream, copy, out, x);
}

void gatherRows(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& indices) {
  Shapes s("gatherRows");
  s.bind("x", x, {"numTokens", "width"}).bind("indices", indices, {"numRows"}).bind("out", out, {"numRows", "width"});
  s.sameDtype("out", out, "x", x).dtype("indices", indices, DType::Int32).denseRows("x", x).denseRows("out", out);
  s.contiguous("indices", indices);
  KVASIR_LAUNCH(stream, gatherRows, out, x, indices);
}

void scatterElements(Stream& stream, const Tensor& out, const Tensor& indices, const Tensor& values) {
  Shapes s("scatterElements");
  s.bind("indices", indices, {"count"}).bind("values", values, {"count"}).bind("out", out, {""});
  for (const auto& [name, tensor] : {std::pair{"out", &out}, std::pair{"indices", &indices}, std::pair{"values", &values}})
    s.dtype(name, *tensor, DType::Int32).contiguous(name, *tensor);
  KVASIR_LAUNCH(stream, scatterElements, out, indices, values);
}

void selectElements(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& indices) {
  Shapes s("selectElements");
  s.bind("out", out, {"count"}).bind("indices", indices, {"count"}).bind("x", x, {""});
  for (const auto& [name, tensor] : {std::pair{"out", &out}, std::pair{"x", &x}, std::pair{"indices", &indices}})
    s.dtype(name, *tensor, DType::Int32).contiguous(name, *tensor);
  KVASIR_LAUNCH(stream, selectElements, out, x, indices);
}

void fill(Stream& stream, const Tensor& out, double value) {
  Shapes("fill").contiguous("out", out);
  KVASIR_LAUNCH(stream, fill, out, value);
}

void fillRandom(Stream& stream, const Tensor& out, int64_t seed, double scale) {
  Shapes s("fillRandom");
  s.floating("out", out).contiguous("out", out);
  KVASIR_LAUNCH(stream, fillRandom, out, seed, scale);
}

int64_t loadFromFile(Stream& stream, const Tensor& out, const FileTensor& source) {
  bool same = out.rank == source.rank;
  for (int i = 0; same && i < out.rank; ++i) same = out.dims[i] == source.dims[i];
  if (!same) fail(kTensorError, "loadFromFile: out is %s but the file's tensor has other dims", describe(out).c_str());
  checkConversion("loadFromFile", source.dtype, out.dtype);
  Shapes("loadFromFile").denseRows("out", out);
  FileView view{source.fd, source.byteOffset, source.dtype, {}};
  for (int i = 0; i < source.rank; ++i) view.strides[i] = source.strides[i];
  KVASIR_LAUNCH(stream, loadFromFile, out, view);
  return bytesOf(fileRows(out, view), elementSize(view.dtype));
}

}  // namespace kvasir::ops
