// Quantized weights with float32 activations, on 256-bit fused multiply-add.
#include <utility>

#include "cpu/quant_kernels.h"
#include "cpu/vec.h"

namespace kvasir::cpu::avx2 {

namespace {
#include "cpu/quant_tile.inc"
}  // namespace

QuantKernels quantKernels(QuantWeight weight) { return floatTiles(weight); }

QuantRowKernels quantRowKernels() { return {quantizeRow, groupSums, toFp8}; }

}  // namespace kvasir::cpu::avx2
