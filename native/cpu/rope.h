#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void rope(Pool& pool, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox);
void normRope(Pool& pool, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox);

}  // namespace kvasir::cpu
