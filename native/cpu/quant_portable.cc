// Quantized weights with float32 activations, for processors without a faster set.
#include <utility>

#include "cpu/quant_kernels.h"
#include "cpu/vec.h"

namespace kvasir::cpu::portable {

namespace {
#include "cpu/quant_tile.inc"
}  // namespace

QuantKernels quantKernels(QuantWeight weight) { return floatTiles(weight); }

QuantRowKernels quantRowKernels() { return {nullptr, groupSums, toFp8}; }

}  // namespace kvasir::cpu::portable
