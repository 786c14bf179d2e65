#include "cpu/rope.h"

#include "core/error.h"
#include "cpu/isa.h"
#include "cpu/norm.h"
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

// What every head goes through before it is rotated; null: nothing.
struct HeadNorms {
  NormRowsInPlace normalise;
  const Tensor& qWeight;
  const Tensor& kWeight;
  float eps;
  bool gemma;
};

void checkPositions(const char* op, const Tensor& positions, const Tensor& cosSin) {
  for (int64_t t = 0; t < positions.dims[0]; ++t) {
    const int64_t position = positionOf(positions, t);
    if (position < 0 || position >= cosSin.dims[0])
      fail(kTensorError, "%s: position %lld of token %lld is outside the table of %lld positions", op, static_cast<long long>(position),
           static_cast<long long>(t), static_cast<long long>(cosSin.dims[0]));
  }
}

void rotateAll(Pool& pool, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox, const HeadNorms* norms) {
  const int64_t rotaryDim = cosSin.dims[1];
  const RopeHeads heads = chooseHeads();
  const int64_t perToken = (q.dims[1] + (k ? k->dims[1] : 0)) * (norms ? 4 * q.dims[2] : rotaryDim);
  const auto rotate = [&](const Tensor& x, int64_t t, const float* row, const Tensor* weight) {
    char* const token = x.ptr<char>() + t * x.strides[0] * elementSize(x.dtype);
    if (weight) norms->normalise(token, x.strides[1], x.dims[1], weight->data, x.dims[2], norms->eps, norms->gemma);
    heads(x.dtype, token, x.strides[1], x.dims[1], row, rotaryDim, isNeox);
  };
  pool.forRange(q.dims[0], 16384 / (perToken + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = cosSin.ptr<float>() + positionOf(positions, t) * cosSin.strides[0];
      rotate(q, t, row, norms ? &norms->qWeight : nullptr);
      if (k) rotate(*k, t, row, norms ? &norms->kWeight : nullptr);
    }
  });
}

}  // namespace

void rope(Pool& pool, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  checkPositions("rope", positions, cosSin);
  rotateAll(pool, positions, q, k, cosSin, isNeox, nullptr);
}

void normRope(Pool& pool, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox) {
  checkPositions("normRope", positions, cosSin);
  const HeadNorms norms{chooseNormRowsInPlace(q.dtype), qWeight, kWeight, static_cast<float>(eps), gemma};
  rotateAll(pool, positions, q, k, cosSin, isNeox, &norms);
}

}  // namespace kvasir::cpu
