#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void rmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma);
void addRmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma);
void layerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps);
void addLayerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps);
void add(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& y);

// RMSNorm of `count` rows of n elements, `stride` elements apart, in place: the same bits as rmsNorm. For ops that go on with the rows.
using NormRowsInPlace = void (*)(void* x, int64_t stride, int64_t count, const void* weight, int64_t n, float eps, bool gemma);
NormRowsInPlace chooseNormRowsInPlace(DType dtype);

}  // namespace kvasir::cpu
