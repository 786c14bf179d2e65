// How checkpoints pack integers into int32 words. The numbers are shared with lib/ops/quant.ts.
#pragma once

#include <cstdint>

namespace kvasir {

enum class PackFormat : int64_t {
  Gptq = 0,        // along the inputs, zero points stored less one
  GptqV2 = 1,      // along the inputs
  Awq = 2,         // along the outputs, nibble j being output {0, 2, 4, 6, 1, 3, 5, 7}[j]
  Compressed = 3,  // along the inputs of each output; zero points along the outputs (compressed-tensors)
};

}  // namespace kvasir
