#include "cpu/attention_fp8.h"

#include <array>

#include "cpu/isa.h"

namespace kvasir::cpu {

namespace {

// The bfloat16 of every code. Codes below 8 are subnormal: mantissa * 2^-9.
constexpr uint16_t widened(int code) {
  constexpr uint16_t subnormal[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
  const int magnitude = code & 0x7f, sign = (code & 0x80) << 8;
  if (magnitude == 0x7f) return static_cast<uint16_t>(sign | 0x7fc0);
  return static_cast<uint16_t>(sign | (magnitude < 8 ? subnormal[magnitude] : (magnitude << 4) + (120 << 7)));
}

constexpr std::array<uint16_t, 256> kWidened = [] {
  std::array<uint16_t, 256> table{};
  for (int code = 0; code < 256; ++code) table[static_cast<size_t>(code)] = widened(code);
  return table;
}();

void portable(const char* from, bf16* to, int64_t count, const char* ahead) {
  for (int64_t i = 0; i < count; i += 32) {
    if (ahead) __builtin_prefetch(ahead + i, 0, 1);
    for (int64_t j = i; j < i + 32; ++j) to[j].bits = kWidened[static_cast<uint8_t>(from[j])];
  }
}

}  // namespace

WidenFp8 widenFp8() {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::widenFp8;
  if (isa() >= Isa::Avx2) return avx2::widenFp8;
#endif
  return portable;
}

}  // namespace kvasir::cpu
