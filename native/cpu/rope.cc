#include "cpu/rope.h"

#include "core/error.h"
#include "cpu/isa.h"
#include "cpu/rope_heads.h"
#include "cpu/vec.h"

namespace kvasir::cpu {

namespace {

#include "cpu/rope_head.inc"

void portableHeads(DType dtype, void* x, int64_t headStride, int64_t heads, const float* cosSin, int64_t rotaryDim, bool neox) {
  rotateHeads(dtype, x, headStride, heads, cosSin, rotaryDim, neox);
}

RopeHeads chooseHeads() {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::ropeHeads;
  if (isa() >= Isa::Avx2) return avx2::ropeHeads;
#endif
  return portableHeads;
}

int64_t positionOf(const Tensor& positions, int64_t t) {
  return positions.dtype == DType::Int64 ? positions.ptr<int64_t>()[t] : positions.ptr<int32_t>()[t];
}

}  // namespace

void rope(Pool& pool, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  const int64_t tokens = q.dims[0], rotaryDim = cosSin.dims[1];
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t position = positionOf(positions, t);
    if (position < 0 || position >= cosSin.dims[0])
      fail(kTensorError, "rope: position %lld of token %lld is outside the table of %lld positions", static_cast<long long>(position),
           static_cast<long long>(t), static_cast<long long>(cosSin.dims[0]));
  }
  const RopeHeads heads = chooseHeads();
  const int64_t perToken = (q.dims[1] + (k ? k->dims[1] : 0)) * rotaryDim;
  const auto rotate = [&](const Tensor& x, int64_t t, const float* row) {
    heads(x.dtype, x.ptr<char>() + t * x.strides[0] * elementSize(x.dtype), x.strides[1], x.dims[1], row, rotaryDim, isNeox);
  };
  pool.forRange(tokens, 16384 / (perToken + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = cosSin.ptr<float>() + positionOf(positions, t) * cosSin.strides[0];
      rotate(q, t, row);
      if (k) rotate(*k, t, row);
    }
  });
}

}  // namespace kvasir::cpu
