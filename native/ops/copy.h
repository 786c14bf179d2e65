// Moving data: conversion, row gathers, fills, and reading checkpoint tensors from files.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// out = x, converted to out's dtype; any strides, equal dims. Floating types and float8 convert among each other; other types only copy.
void copy(Stream& stream, const Tensor& out, const Tensor& x);

// out[i, :] = x[indices[i], :].  out [numRows, width], x [numTokens, width], indices int32 [numRows]; an index out of range gives zeros.
void gatherRows(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& indices);

// out[indices[i]] = values[i]: out, values, indices int32, one dimension; an index out of range stores nothing.
void scatterElements(Stream& stream, const Tensor& out, const Tensor& indices, const Tensor& values);

// out[i] = x[indices[i]] where indices[i] >= 0, else out[i] stays. int32, one dimension; an index past the end changes nothing.
void selectElements(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& indices);

// Every element = value.
void fill(Stream& stream, const Tensor& out, double value);

// Uniform in [-scale, scale), a pure function of (seed, element index): dummy weights. out is contiguous.
void fillRandom(Stream& stream, const Tensor& out, int64_t seed, double scale);

// Where a tensor lies in an open file: element (i, j, ...) at byteOffset + (i * strides[0] + j * strides[1] + ...) * elementSize(dtype).
struct FileTensor {
  int fd;
  int64_t byteOffset;
  DType dtype;
  int32_t rank;
  int64_t dims[kMaxRank];
  int64_t strides[kMaxRank];
};

// out = the file's tensor, converted to out's dtype. A short read is ERR_KVASIR_CHECKPOINT at the next fence.
// Returns the bytes that are read from the file: those of the tensor, and short gaps between short rows.
int64_t loadFromFile(Stream& stream, const Tensor& out, const FileTensor& source);

}  // namespace kvasir::ops
