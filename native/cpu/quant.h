// Linear layers with quantized weights on the CPU: what ops/quant.h says. See quant_kernels.h for the packed order.
#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void repackInt4(Pool& pool, const Tensor& out, const Tensor& source, int64_t format);
void unpackZeros(Pool& pool, const Tensor& out, const Tensor& source, int64_t format);
void repackInt8(Pool& pool, const Tensor& out, const Tensor& source, int64_t format);

void packInt4(Pool& pool, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros);
void packInt8(Pool& pool, const Tensor& weight, const Tensor& scales);
void packFp8(Pool& pool, const Tensor& weight);

// With one set of instructions and one order of the weight, a row of out depends on its row of x alone, bit for bit.
void linearInt4(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool dynamicActivation);
void linearInt8(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation);
// x is never rounded to fp8: activation and inputScale have no effect here.
void linearFp8(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
               int64_t blockN, int64_t blockK, int64_t activation, double inputScale);

void quantizeFp8(Pool& pool, const Tensor& weight, const Tensor& scales, const Tensor& source);

}  // namespace kvasir::cpu
