#pragma once

#include <napi.h>

#include <memory>

#include "core/stream.h"

namespace kvasir::addon {

void registerCuda(Napi::Env env, Napi::Object exports);

// Throws ERR_KVASIR_UNSUPPORTED when the build has no CUDA backend or the device cannot be used.
std::shared_ptr<Stream> createCudaStream(int device);

}  // namespace kvasir::addon
