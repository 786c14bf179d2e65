// Reading parts of tensors from files: what lies together is one read.
#pragma once

#include <cstdint>

#include "core/file_view.h"
#include "core/tensor.h"

namespace kvasir {

// A tensor of a file as `matrices` of `rows` rows of `width` elements. A row lies in one piece in the file and in memory: trailing axes
// that are dense on both sides are one, so a whole tensor is one long row.
struct FileRows {
  int rowAxis;  // the axis that the rows are; -1: there is one row
  int64_t matrices, rows, width;
  int64_t outStride, fileStride;  // from row to row, in elements
};
FileRows fileRows(const Tensor& out, const FileView& source);

// Where matrix m begins, in elements.
struct MatrixStart {
  int64_t out, file;
};
MatrixStart matrixStart(const Tensor& out, const FileView& source, const FileRows& plan, int64_t m);

// Whether the gaps between a matrix's rows are read along, because so many reads of so little would take longer (group scales of a rank's
// inputs: some thousand rows of a few bytes).
bool readsGaps(int64_t rows, int64_t rowBytes, int64_t strideBytes);

// Reads rows of rowBytes, which begin strideBytes apart in the file, to `to`, one behind the other.
void readRows(int fd, char* to, int64_t rows, int64_t rowBytes, int64_t offset, int64_t strideBytes, bool withGaps);

// Bytes that reading all of it takes from the file, gaps included.
int64_t bytesOf(const FileRows& plan, int64_t elementBytes);

}  // namespace kvasir
