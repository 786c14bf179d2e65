#include "ops/attention.h"

#include "addon/op.h"

namespace kvasir::addon {

void registerAttention(Napi::Env env, Napi::Object exports) { op<ops::pagedAttention>(env, exports, "pagedAttention"); }

}  // namespace kvasir::addon
