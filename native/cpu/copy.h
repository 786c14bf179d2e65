#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

// The source of loadFromFile; dims are those of the destination.
struct FileView {
  int fd;
  int64_t byteOffset;
  DType dtype;
  int64_t strides[kMaxRank];
};

void copy(Pool& pool, const Tensor& out, const Tensor& x);
void gatherRows(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& indices);
void fill(Pool& pool, const Tensor& out, double value);
void fillRandom(Pool& pool, const Tensor& out, int64_t seed, double scale);
void loadFromFile(Pool& pool, const Tensor& out, const FileView& source);

}  // namespace kvasir::cpu
