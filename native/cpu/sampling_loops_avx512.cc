#include "cpu/sampling_loops.h"
#include "cpu/vec.h"

namespace kvasir::cpu {
namespace {
#include "cpu/sampling_loops.inc"
}
constexpr SamplingLoops avx512::kSamplingLoops = KVASIR_SAMPLING_LOOPS;
}  // namespace kvasir::cpu
