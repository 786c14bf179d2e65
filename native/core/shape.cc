#include "core/shape.h"

#include <cstring>

namespace kvasir {

std::string describe(const Tensor& t) {
  std::string text = std::string(dtypeName(t.dtype)) + " [";
  for (int i = 0; i < t.rank; ++i) text += (i ? ", " : "") + std::to_string(t.dims[i]);
  return text + "]";
}

Shapes& Shapes::bind(const char* name, const Tensor& t, std::initializer_list<const char*> sizes) {
  if (t.rank != static_cast<int>(sizes.size()))
    fail(kTensorError, "%s: %s must have %zu dimensions, got %s", op_, name, sizes.size(), describe(t).c_str());
  int axis = 0;
  for (const char* size : sizes) {
    const int64_t value = t.dims[axis++];
    if (*size == '\0') continue;
    const Bound* found = nullptr;
    for (int i = 0; i < count_ && !found; ++i)
      if (std::strcmp(bound_[i].size, size) == 0) found = &bound_[i];
    if (!found) {
      if (count_ == kMaxNames) fail(kNativeError, "%s: too many named sizes", op_);
      bound_[count_++] = {size, name, value};
    } else if (found->value != value) {
      fail(kTensorError, "%s: %s has %s %lld, expected %lld (as in %s)", op_, name, size, static_cast<long long>(value),
           static_cast<long long>(found->value), found->tensor);
    }
  }
  return *this;
}

int64_t Shapes::operator[](const char* size) const {
  for (int i = 0; i < count_; ++i)
    if (std::strcmp(bound_[i].size, size) == 0) return bound_[i].value;
  fail(kNativeError, "%s: size %s was never bound", op_, size);
}

Shapes& Shapes::dtype(const char* name, const Tensor& t, DType expected) { return dtypeOneOf(name, t, {expected}); }

Shapes& Shapes::dtypeOneOf(const char* name, const Tensor& t, std::initializer_list<DType> allowed) {
  std::string names;
  for (DType d : allowed) {
    if (t.dtype == d) return *this;
    names += (names.empty() ? "" : " or ") + std::string(dtypeName(d));
  }
  fail(kTensorError, "%s: %s must be %s, got %s", op_, name, names.c_str(), describe(t).c_str());
}

Shapes& Shapes::floating(const char* name, const Tensor& t) {
  return dtypeOneOf(name, t, {DType::Float32, DType::Float16, DType::BFloat16});
}

Shapes& Shapes::sameDtype(const char* nameA, const Tensor& a, const char* nameB, const Tensor& b) {
  if (a.dtype != b.dtype)
    fail(kTensorError, "%s: %s is %s but %s is %s; they must be the same", op_, nameA, dtypeName(a.dtype), nameB, dtypeName(b.dtype));
  return *this;
}

Shapes& Shapes::denseRows(const char* name, const Tensor& t) {
  if (t.rank > 0 && t.dim(-1) > 1 && t.stride(-1) != 1) fail(kTensorError, "%s: rows of %s must be dense (last stride 1)", op_, name);
  return *this;
}

Shapes& Shapes::contiguous(const char* name, const Tensor& t) {
  if (!t.contiguous()) fail(kTensorError, "%s: %s must be contiguous, got %s with gaps", op_, name, describe(t).c_str());
  return *this;
}

Shapes& Shapes::require(bool ok, const char* sentence) {
  if (!ok) fail(kTensorError, "%s: %s", op_, sentence);
  return *this;
}

}  // namespace kvasir
