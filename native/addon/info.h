// Exports that are not ops: their arguments, and what becomes of their errors.
#pragma once

#include "addon/context.h"

namespace kvasir::addon {

// Runs fn(info, context) as the body of an export.
template <class F>
napi_value withInfo(napi_env env, napi_callback_info raw, F&& fn) {
  return guarded(env, [&]() -> napi_value {
    Napi::CallbackInfo info(env, raw);
    return fn(info, Context::of(env));
  });
}

inline int32_t intArg(const Napi::CallbackInfo& info, size_t i) {
  if (!info[i].IsNumber()) fail(kNativeError, "argument %zu must be a number", i);
  return info[i].As<Napi::Number>().Int32Value();
}

}  // namespace kvasir::addon
