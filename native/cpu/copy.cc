#include "cpu/copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/error.h"
#include "core/file_rows.h"

namespace kvasir::cpu {

namespace {

// One run of n dense elements, converted.
void convertRun(char* out, DType to, const char* in, DType from, int64_t n);

template <class To, class From>
void convertAs(char* out, const char* in, int64_t n) {
  To* o = reinterpret_cast<To*>(out);
  const From* x = reinterpret_cast<const From*>(in);
  for (int64_t i = 0; i < n; ++i) o[i] = fromFloat<To>(toFloat(x[i]));
}

template <class To>
void convertTo(char* out, const char* in, DType from, int64_t n) {
  switch (from) {
    case DType::Float32: return convertAs<To, float>(out, in, n);
    case DType::Float16: return convertAs<To, f16>(out, in, n);
    case DType::BFloat16: return convertAs<To, bf16>(out, in, n);
    default: return convertAs<To, f8e4m3>(out, in, n);
  }
}

template <class To, class From>
void castIntegers(char* out, const char* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) reinterpret_cast<To*>(out)[i] = static_cast<To>(reinterpret_cast<const From*>(in)[i]);
}

void convertRun(char* out, DType to, const char* in, DType from, int64_t n) {
  if (to == from) {
    std::memcpy(out, in, static_cast<size_t>(n * elementSize(to)));
    return;
  }
  switch (to) {
    case DType::Float32: return convertTo<float>(out, in, from, n);
    case DType::Float16: return convertTo<f16>(out, in, from, n);
    case DType::BFloat16: return convertTo<bf16>(out, in, from, n);
    case DType::Int64: return castIntegers<int64_t, int32_t>(out, in, n);
    default: return castIntegers<int32_t, int64_t>(out, in, n);
  }
}

int64_t rowCount(const Tensor& t) { return t.rank == 0 ? 1 : t.numel() / std::max<int64_t>(1, t.dim(-1)); }

// Offset in elements of the first element of row r (all dims but the last), for given strides.
int64_t rowOffset(const Tensor& shape, const int64_t* strides, int64_t r) {
  int64_t offset = 0;
  for (int axis = shape.rank - 2; axis >= 0; --axis) {
    offset += r % shape.dims[axis] * strides[axis];
    r /= shape.dims[axis];
  }
  return offset;
}

}  // namespace

void copy(Pool& pool, const Tensor& out, const Tensor& x) {
  const int64_t width = out.rank ? out.dim(-1) : 1, rows = rowCount(out);
  if (width == 0 || rows == 0) return;
  const bool dense = (out.rank == 0) || ((out.stride(-1) == 1 || width == 1) && (x.stride(-1) == 1 || width == 1));
  const int64_t outSize = elementSize(out.dtype), inSize = elementSize(x.dtype);
  pool.forRange(rows, 65536 / width + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      char* o = out.ptr<char>() + rowOffset(out, out.strides, r) * outSize;
      const char* in = x.ptr<char>() + rowOffset(x, x.strides, r) * inSize;
      if (dense) convertRun(o, out.dtype, in, x.dtype, width);
      else
        for (int64_t i = 0; i < width; ++i)
          convertRun(o + i * out.stride(-1) * outSize, out.dtype, in + i * x.stride(-1) * inSize, x.dtype, 1);
    }
  });
}

void gatherRows(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& indices) {
  const int64_t rowBytes = out.dims[1] * elementSize(out.dtype), size = elementSize(out.dtype);
  pool.forRange(out.dims[0], 65536 / (rowBytes + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t index = indices.ptr<int32_t>()[r];
      char* to = out.ptr<char>() + r * out.strides[0] * size;
      if (index < 0 || index >= x.dims[0]) std::memset(to, 0, static_cast<size_t>(rowBytes));
      else std::memcpy(to, x.ptr<char>() + index * x.strides[0] * size, static_cast<size_t>(rowBytes));
    }
  });
}

void scatterElements(Pool&, const Tensor& out, const Tensor& indices, const Tensor& values) {
  for (int64_t i = 0; i < indices.dims[0]; ++i) {
    const int32_t index = indices.ptr<int32_t>()[i];
    if (index >= 0 && index < out.dims[0]) out.ptr<int32_t>()[index] = values.ptr<int32_t>()[i];
  }
}

void selectElements(Pool&, const Tensor& out, const Tensor& x, const Tensor& indices) {
  for (int64_t i = 0; i < indices.dims[0]; ++i) {
    const int32_t index = indices.ptr<int32_t>()[i];
    if (index >= 0 && index < x.dims[0]) out.ptr<int32_t>()[i] = x.ptr<int32_t>()[index];
  }
}

void fill(Pool& pool, const Tensor& out, double value) {
  char element[8] = {};
  switch (out.dtype) {
    case DType::Float32: { const float v = static_cast<float>(value); std::memcpy(element, &v, 4); break; }
    case DType::Float16: { const f16 v = fromFloat<f16>(static_cast<float>(value)); std::memcpy(element, &v, 2); break; }
    case DType::BFloat16: { const bf16 v = fromFloat<bf16>(static_cast<float>(value)); std::memcpy(element, &v, 2); break; }
    case DType::Int32: { const int32_t v = static_cast<int32_t>(value); std::memcpy(element, &v, 4); break; }
    case DType::Int64: { const int64_t v = static_cast<int64_t>(value); std::memcpy(element, &v, 8); break; }
    default: element[0] = static_cast<char>(static_cast<int>(value));
  }
  const int64_t size = elementSize(out.dtype);
  pool.forRange(out.numel(), 65536, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(out.ptr<char>() + i * size, element, static_cast<size_t>(size));
  });
}

void fillRandom(Pool& pool, const Tensor& out, int64_t seed, double scale) {
  const auto fillAs = [&](auto* data) {
    using T = std::remove_pointer_t<decltype(data)>;
    pool.forRange(out.numel(), 65536, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {  // splitmix64 finaliser of (seed, index)
        uint64_t z = static_cast<uint64_t>(i) + static_cast<uint64_t>(seed) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        const float unit = static_cast<float>(static_cast<int32_t>(z >> 32)) * 4.656612873077393e-10f;  // [-1, 1)
        data[i] = fromFloat<T>(unit * static_cast<float>(scale));
      }
    });
  };
  switch (out.dtype) {
    case DType::Float32: return fillAs(out.ptr<float>());
    case DType::BFloat16: return fillAs(out.ptr<bf16>());
    default: return fillAs(out.ptr<f16>());
  }
}

void loadFromFile(Pool& pool, const Tensor& out, const FileView& source) {
  if (out.numel() == 0) return;
  if (out.rank && source.strides[out.rank - 1] != 1 && out.dim(-1) > 1) fail(kTensorError, "loadFromFile: rows of the file's tensor must be dense");
  const FileRows plan = fileRows(out, source);
  const int64_t fileSize = elementSize(source.dtype), outSize = elementSize(out.dtype), columnsPerPiece = 1 << 20;
  const int64_t rowsPerPiece = std::max<int64_t>(1, (256 << 10) / (plan.width * fileSize));
  const int64_t columnPieces = (plan.width + columnsPerPiece - 1) / columnsPerPiece, rowPieces = (plan.rows + rowsPerPiece - 1) / rowsPerPiece;
  const bool asIs = source.dtype == out.dtype && (rowsPerPiece == 1 || plan.rows == 1 || plan.outStride == plan.width);
  const bool gaps = readsGaps(plan.rows, plan.width * fileSize, plan.fileStride * fileSize);
  std::atomic<bool> failed{false};
  std::string message;  // written by the one chunk that set `failed`
  pool.run(plan.matrices * rowPieces * columnPieces, [&](int64_t chunk, int thread) {
    if (failed.load(std::memory_order_relaxed)) return;
    const MatrixStart start = matrixStart(out, source, plan, chunk / (rowPieces * columnPieces));
    const int64_t row = chunk / columnPieces % rowPieces * rowsPerPiece, column = chunk % columnPieces * columnsPerPiece;
    const int64_t rows = std::min(rowsPerPiece, plan.rows - row), columns = std::min(columnsPerPiece, plan.width - column);
    char* to = out.ptr<char>() + (start.out + row * plan.outStride + column) * outSize;
    const int64_t from = source.byteOffset + (start.file + row * plan.fileStride + column) * fileSize;
    try {
      char* staging = asIs ? to : static_cast<char*>(pool.scratch(thread, rows * columns * fileSize));
      readRows(source.fd, staging, rows, columns * fileSize, from, plan.fileStride * fileSize, gaps);
      if (asIs) return;
      for (int64_t r = 0; r < rows; ++r) convertRun(to + r * plan.outStride * outSize, out.dtype, staging + r * columns * fileSize, source.dtype, columns);
    } catch (const Error& e) {
      if (!failed.exchange(true)) message = e.what();
    }
  });
  if (failed.load()) throw Error(kCheckpointError, message);
}

}  // namespace kvasir::cpu
