#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void rmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma);
void addRmsNorm(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma);

}  // namespace kvasir::cpu
