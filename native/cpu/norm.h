#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void rmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma);
void addRmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma);
void layerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps);
void addLayerNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps);
void add(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& y);

}  // namespace kvasir::cpu
