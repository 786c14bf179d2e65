// Writing the packed order of quantized weights; see quant_kernels.h.
#pragma once

#include <cstdint>

#include "cpu/quant_kernels.h"

namespace kvasir::cpu {

// Inputs in a word of 32 bits.
constexpr int64_t quantUnit(QuantWeight kind) { return kind == QuantWeight::Int4 ? 8 : 4; }

// target [ceil(k / unit)][32] words = up to 32 canonical rows of k inputs, rowBytes apart; what is missing is zero codes.
void packQuantRows(QuantWeight kind, const void* source, int64_t rowBytes, int64_t rows, int64_t k, uint32_t* target);

// target [groups][32] = source [rows][groups]; missing rows are zero. elementBytes: 1, 2 or 4.
void packQuantGroups(const void* source, int64_t rows, int64_t groups, int64_t elementBytes, void* target);

}  // namespace kvasir::cpu
