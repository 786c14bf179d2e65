// Activations of MLPs. float32 inside, rounded once. Tensors are [numTokens, size] of one floating dtype; rows may lie apart.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// out[t, i] = f(x[t, i]) * x[t, size + i]; x is [numTokens, 2 * size], the gate first.
void siluAndMul(Stream& stream, const Tensor& out, const Tensor& x);      // f(v) = v / (1 + exp(-v))
void geluAndMul(Stream& stream, const Tensor& out, const Tensor& x);      // f(v) = v (1 + erf(v / sqrt 2)) / 2
void geluTanhAndMul(Stream& stream, const Tensor& out, const Tensor& x);  // f(v) = v (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))) / 2

// out[t, i] = f(x[t, i]), same shapes; out may be x.
void silu(Stream& stream, const Tensor& out, const Tensor& x);
void gelu(Stream& stream, const Tensor& out, const Tensor& x);
void geluTanh(Stream& stream, const Tensor& out, const Tensor& x);
void relu(Stream& stream, const Tensor& out, const Tensor& x);

// out[t, i] = x[t, i] * factor, the factor rounded to x's dtype before. Same shapes; out may be x.
void scale(Stream& stream, const Tensor& out, const Tensor& x, double factor);

// out[t, i] = cap * tanh(x[t, i] / cap), cap > 0. Same shapes; out may be x.
void softCap(Stream& stream, const Tensor& out, const Tensor& x, double cap);

}  // namespace kvasir::ops
