#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void siluAndMul(Pool& pool, const Tensor& out, const Tensor& x);
void geluAndMul(Pool& pool, const Tensor& out, const Tensor& x);
void geluTanhAndMul(Pool& pool, const Tensor& out, const Tensor& x);
void silu(Pool& pool, const Tensor& out, const Tensor& x);
void gelu(Pool& pool, const Tensor& out, const Tensor& x);
void geluTanh(Pool& pool, const Tensor& out, const Tensor& x);
void relu(Pool& pool, const Tensor& out, const Tensor& x);
void scale(Pool& pool, const Tensor& out, const Tensor& x, double factor);
void softCap(Pool& pool, const Tensor& out, const Tensor& x, double cap);

}  // namespace kvasir::cpu
