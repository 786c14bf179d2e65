#include "ops/norm.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerNorm(Napi::Env env, Napi::Object exports) {
  op<ops::rmsNorm>(env, exports, "rmsNorm");
  op<ops::addRmsNorm>(env, exports, "addRmsNorm");
  op<ops::layerNorm>(env, exports, "layerNorm");
  op<ops::addLayerNorm>(env, exports, "addLayerNorm");
  op<ops::add>(env, exports, "add");
}

}  // namespace kvasir::addon
