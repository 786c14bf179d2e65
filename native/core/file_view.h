#pragma once

#include "core/tensor.h"

namespace kvasir {

// Where the elements of a tensor lie in an open file; dims are those of the destination. Strides in elements, the last is 1.
struct FileView {
  int fd;
  int64_t byteOffset;
  DType dtype;
  int64_t strides[kMaxRank];
};

}  // namespace kvasir
