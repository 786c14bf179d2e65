#include "ops/moe.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerMoe(Napi::Env env, Napi::Object exports) {
  op<ops::moeRouting>(env, exports, "moeRouting");
  op<ops::moeAlign>(env, exports, "moeAlign");
  op<ops::moeLinear>(env, exports, "moeLinear");
  op<ops::moeCombine>(env, exports, "moeCombine");
}

}  // namespace kvasir::addon
