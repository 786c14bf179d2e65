#include "ops/gemm.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerGemm(Napi::Env env, Napi::Object exports) {
  op<ops::packLinear>(env, exports, "packLinear");
  op<ops::linear>(env, exports, "linear");
}

}  // namespace kvasir::addon
