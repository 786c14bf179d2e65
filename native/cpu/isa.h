// Which instruction set the kernels use, chosen once at run time.
#pragma once

namespace kvasir::cpu {

// Ordered: a level includes those before it.
enum class Isa : int { Portable = 0, Avx2 = 1, Avx512 = 2, Avx512Bf16 = 3 };

// The level in use: the highest that processor and build support, unless setIsa lowered it.
Isa isa();
// The highest available level.
Isa bestIsa();
// Lowers the level (tests and benchmarks); values above bestIsa() are cut to it. Not to be called while work is queued.
void setIsa(Isa level);
const char* isaName(Isa level);

}  // namespace kvasir::cpu
