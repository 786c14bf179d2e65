#include "core/file_rows.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace kvasir {

namespace {

// Measured on files in memory: a read takes 0.5 us, in which 4 KiB can be copied.
constexpr int64_t kManyRows = 1024, kShortRow = 256, kShortStride = 4096;
constexpr int64_t kSpanBytes = 128 << 10;

}  // namespace

FileRows fileRows(const Tensor& out, const FileView& source) {
  int64_t width = out.rank ? out.dim(-1) : 1;
  int rank = std::max(out.rank - 1, 0);
  while (rank > 0 && out.strides[rank - 1] == width && source.strides[rank - 1] == width) width *= out.dims[--rank];
  FileRows plan{rank - 1, 1, 1, width, width, width};
  if (plan.rowAxis < 0) return plan;
  plan.rows = out.dims[plan.rowAxis];
  plan.outStride = out.strides[plan.rowAxis];
  plan.fileStride = source.strides[plan.rowAxis];
  for (int i = 0; i < plan.rowAxis; ++i) plan.matrices *= out.dims[i];
  return plan;
}

MatrixStart matrixStart(const Tensor& out, const FileView& source, const FileRows& plan, int64_t m) {
  MatrixStart start{0, 0};
  for (int axis = plan.rowAxis - 1; axis >= 0; --axis) {
    const int64_t index = m % out.dims[axis];
    m /= out.dims[axis];
    start.out += index * out.strides[axis];
    start.file += index * source.strides[axis];
  }
  return start;
}

bool readsGaps(int64_t rows, int64_t rowBytes, int64_t strideBytes) {
  return rows >= kManyRows && rowBytes < kShortRow && strideBytes > rowBytes && strideBytes <= kShortStride;
}

void readRows(int fd, char* to, int64_t rows, int64_t rowBytes, int64_t offset, int64_t strideBytes, bool withGaps) {
  if (rows == 1 || strideBytes == rowBytes) return readFully(fd, to, rows * rowBytes, offset);
  if (!withGaps) {
    for (int64_t r = 0; r < rows; ++r) readFully(fd, to + r * rowBytes, rowBytes, offset + r * strideBytes);
    return;
  }
  const int64_t most = kSpanBytes / strideBytes;
  std::vector<char> span(static_cast<size_t>(std::min(rows, most) * strideBytes));
  for (int64_t begin = 0; begin < rows; begin += most) {
    const int64_t n = std::min(most, rows - begin);
    readFully(fd, span.data(), (n - 1) * strideBytes + rowBytes, offset + begin * strideBytes);  // behind the last row the file may end
    for (int64_t r = 0; r < n; ++r) std::memcpy(to + (begin + r) * rowBytes, span.data() + r * strideBytes, static_cast<size_t>(rowBytes));
  }
}

int64_t bytesOf(const FileRows& plan, int64_t elementBytes) {
  const int64_t rowBytes = plan.width * elementBytes, strideBytes = plan.fileStride * elementBytes;
  if (plan.matrices * plan.rows * rowBytes == 0) return 0;
  const bool gaps = readsGaps(plan.rows, rowBytes, strideBytes);
  return plan.matrices * (gaps ? (plan.rows - 1) * strideBytes + rowBytes : plan.rows * rowBytes);
}

}  // namespace kvasir
