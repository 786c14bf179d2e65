// Quantized weights with float32 activations, on 512-bit fused multiply-add.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 misreads its own _mm512_undefined_*
#endif
#include <utility>

#include "cpu/quant_kernels.h"
#include "cpu/vec.h"

namespace kvasir::cpu::avx512 {

namespace {
#include "cpu/quant_tile.inc"
}  // namespace

QuantKernels quantKernels(QuantWeight weight) { return floatTiles(weight); }

QuantRowKernels quantRowKernels() { return {quantizeRow, groupSums, toFp8}; }

}  // namespace kvasir::cpu::avx512
