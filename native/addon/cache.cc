#include "ops/cache.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerCache(Napi::Env env, Napi::Object exports) { op<ops::kvCacheWrite>(env, exports, "kvCacheWrite"); }

}  // namespace kvasir::addon
