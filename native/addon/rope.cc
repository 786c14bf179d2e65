#include "ops/rope.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerRope(Napi::Env env, Napi::Object exports) {
  op<ops::rope>(env, exports, "rope");
  op<ops::normRope>(env, exports, "normRope");
}

}  // namespace kvasir::addon
