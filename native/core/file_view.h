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

// Reads exactly `bytes` from `offset`; a short read is ERR_KVASIR_CHECKPOINT. pread, not a mapping: a file that shrinks meanwhile is an
// error, not a SIGBUS.
void readFully(int fd, char* to, int64_t bytes, int64_t offset);

}  // namespace kvasir
