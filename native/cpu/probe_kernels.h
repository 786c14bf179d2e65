#pragma once

#include <cstdint>

namespace kvasir::cpu {
namespace avx512 {
uint64_t probeSum(const char* data, int64_t bytes);
float probePeak(int64_t steps, int64_t* operations);
}  // namespace avx512
namespace avx512bf16 {
float probePeak(int64_t steps, int64_t* operations);
}
}  // namespace kvasir::cpu
