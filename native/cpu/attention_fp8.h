// Attention over float8_e4m3 pages: a split's pages are widened to bfloat16, which is exact, and then taken as those of a bfloat16 cache.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cpu {

// Widens `count` elements, a multiple of 32. Meanwhile prefetches as many bytes from `ahead`, unless it is null.
using WidenFp8 = void (*)(const char* from, bf16* to, int64_t count, const char* ahead);

// For the instruction set in use.
WidenFp8 widenFp8();

namespace avx2 {
void widenFp8(const char* from, bf16* to, int64_t count, const char* ahead);
}
namespace avx512 {
void widenFp8(const char* from, bf16* to, int64_t count, const char* ahead);
}

}  // namespace kvasir::cpu
