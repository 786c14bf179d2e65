#include "cpu/sampling_loops.h"

#include "cpu/isa.h"
#include "cpu/vec.h"

namespace kvasir::cpu {

namespace {

#include "cpu/sampling_loops.inc"

constexpr SamplingLoops kPortableLoops = KVASIR_SAMPLING_LOOPS;

}  // namespace

const SamplingLoops& samplingLoops() {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::kSamplingLoops;
  if (isa() >= Isa::Avx2) return avx2::kSamplingLoops;
#endif
  return kPortableLoops;
}

}  // namespace kvasir::cpu
