#pragma once

#include <napi.h>

namespace kvasir::addon {

void registerDevice(Napi::Env env, Napi::Object exports);

}  // namespace kvasir::addon
