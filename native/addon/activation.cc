#include "ops/activation.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerActivation(Napi::Env env, Napi::Object exports) {
  op<ops::siluAndMul>(env, exports, "siluAndMul");
  op<ops::geluAndMul>(env, exports, "geluAndMul");
  op<ops::geluTanhAndMul>(env, exports, "geluTanhAndMul");
  op<ops::silu>(env, exports, "silu");
  op<ops::gelu>(env, exports, "gelu");
  op<ops::geluTanh>(env, exports, "geluTanh");
  op<ops::relu>(env, exports, "relu");
  op<ops::scale>(env, exports, "scale");
  op<ops::softCap>(env, exports, "softCap");
}

}  // namespace kvasir::addon
