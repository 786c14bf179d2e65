// Checks of an op's arguments: sizes have names, and one name must mean one number in all tensors of a call.
//   Shapes s("rmsNorm");
//   s.bind("out", out, {"numTokens", "hiddenSize"});
//   s.bind("weight", weight, {"hiddenSize"});
// A mismatch throws ERR_KVASIR_TENSOR: "rmsNorm: weight has hiddenSize 32, expected 64 (as in out)".
#pragma once

#include <initializer_list>
#include <string>

#include "core/error.h"
#include "core/tensor.h"

namespace kvasir {

std::string describe(const Tensor& t);

class Shapes {
 public:
  explicit Shapes(const char* op) : op_(op) {}

  // Binds or compares each dimension of t; "" matches any size.
  Shapes& bind(const char* name, const Tensor& t, std::initializer_list<const char*> sizes);
  // The size bound to a name.
  int64_t operator[](const char* size) const;
  Shapes& dtype(const char* name, const Tensor& t, DType expected);
  Shapes& dtypeOneOf(const char* name, const Tensor& t, std::initializer_list<DType> allowed);
  Shapes& floating(const char* name, const Tensor& t);
  Shapes& sameDtype(const char* nameA, const Tensor& a, const char* nameB, const Tensor& b);
  // The innermost dimension is dense (stride 1).
  Shapes& denseRows(const char* name, const Tensor& t);
  Shapes& contiguous(const char* name, const Tensor& t);
  Shapes& require(bool ok, const char* sentence);

 private:
  struct Bound {
    const char* size;
    const char* tensor;
    int64_t value;
  };
  static constexpr int kMaxNames = 16;
  const char* op_;
  Bound bound_[kMaxNames];
  int count_ = 0;
};

}  // namespace kvasir
