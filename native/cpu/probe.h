// The machine's own ceilings, so that a benchmark can say what share of them it reaches. Not used by any model.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace kvasir::cpu {

// Bytes per second at which all threads together read `data`: a plain sum, the mean of six rounds after a first one.
double probeReadBandwidth(Pool& pool, const char* data, int64_t bytes);

// Multiply-add operations per second of all threads with operands in registers: bfloat16 dot products where the processor
// has them, else float32. One multiply-add counts as two. The best of many short runs.
double probePeakFlops(Pool& pool);

}  // namespace kvasir::cpu
