// Entry point of the addon; runs once per environment that loads it.
#include "addon/cuda.h"
#include "addon/device.h"
#include "addon/op.h"

namespace kvasir::addon {

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  guarded(env, [&]() -> napi_value {
    auto* context = new Context(env);
    napi_set_instance_data(env, context, [](napi_env, void* data, void*) { delete static_cast<Context*>(data); }, nullptr);
    // Runs before the thread-safe function's own hook (last added, first run), so that no stream thread can call into an
    // environment that is going.
    napi_add_env_cleanup_hook(env, [](void* data) { static_cast<Context*>(data)->shutdown(); }, context);
    registerDevice(env, exports);
    registerCuda(env, exports);
#define KVASIR_REGISTER(family) register##family(env, exports);
    KVASIR_FAMILIES(KVASIR_REGISTER)
#undef KVASIR_REGISTER
    return nullptr;
  });
  return exports;
}

}  // namespace

NODE_API_MODULE(kvasir, initialize)

}  // namespace kvasir::addon
