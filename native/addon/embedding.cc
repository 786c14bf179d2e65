#include "ops/embedding.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerEmbedding(Napi::Env env, Napi::Object exports) {
  op<ops::embedding>(env, exports, "embedding");
}

}  // namespace kvasir::addon
