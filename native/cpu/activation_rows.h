// The row loop of the activations per instruction set.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cpu {

enum class Function { Silu, Gelu, GeluTanh, Relu, Scale, SoftCap };

// A function of one number; the last two have a parameter.
struct Activation {
  Function function;
  float parameter = 0.0f;
};

// out[i] = f(x[i]), or f(x[i]) * up[i] when up is not null; n elements of one floating dtype.
using ActivationRow = void (*)(Activation f, DType dtype, void* out, const void* x, const void* up, int64_t n);

namespace avx2 {
void activationRow(Activation f, DType dtype, void* out, const void* x, const void* up, int64_t n);
}
namespace avx512 {
void activationRow(Activation f, DType dtype, void* out, const void* x, const void* up, int64_t n);
}

}  // namespace kvasir::cpu
