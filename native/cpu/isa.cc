#include "cpu/isa.h"

#include <algorithm>
#include <atomic>

namespace kvasir::cpu {

namespace {

Isa detect() {
#ifdef KVASIR_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) return Isa::Avx512Bf16;
  if (avx512) return Isa::Avx512;
  if (avx2) return Isa::Avx2;
#endif
  return Isa::Portable;
}

// A property of the machine, the same for every environment that loads the addon.
std::atomic<int>& current() {
  static std::atomic<int> level{static_cast<int>(bestIsa())};
  return level;
}

}  // namespace

Isa bestIsa() {
  static const Isa best = detect();
  return best;
}

Isa isa() { return static_cast<Isa>(current().load(std::memory_order_relaxed)); }

void setIsa(Isa level) { current().store(static_cast<int>(std::min(level, bestIsa()))); }

const char* isaName(Isa level) {
  switch (level) {
    case Isa::Portable: return "portable";
    case Isa::Avx2: return "avx2";
    case Isa::Avx512: return "avx512";
    case Isa::Avx512Bf16: return "avx512_bf16";
  }
  return "?";
}

}  // namespace kvasir::cpu
