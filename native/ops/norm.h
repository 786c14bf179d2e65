// Root-mean-square and layer normalisation, alone or fused with the residual addition, and that addition by itself.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// out[t, :] = x[t, :] / rms(x[t, :]) * weight, rms = sqrt(mean(x^2) + eps), in float32.
//   out, x: [numTokens, hiddenSize] (rows may be strided), weight: [hiddenSize], one dtype.
//   gemma = false: the normalised value is rounded to the dtype before the weight multiplies it (Llama in Hugging Face);
//   gemma = true: multiplies by (1 + weight) in float32 and rounds once.
void rmsNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma);

// residual += x (rounded to its dtype), then out = rmsNorm(residual). residual is updated in place; out may be x.
void addRmsNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma);

// out[t, :] = (x[t, :] - mean(x[t, :])) / sqrt(var(x[t, :]) + eps) * weight + bias, in float32, rounded once; var is the mean of
// (x - mean)^2. Shapes as in rmsNorm; bias: [hiddenSize] or absent.
void layerNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps);

// residual += x (rounded to its dtype), then out = layerNorm(residual). residual is updated in place; out may be x.
void addLayerNorm(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps);

// out = x + y, rounded. All [numTokens, hiddenSize] of one dtype, rows may be strided; out may be x or y.
void add(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& y);

}  // namespace kvasir::ops
