// Collectives, and the communicators they run on.
#include "ops/comm.h"

#include <cstring>

#include "addon/info.h"
#include "addon/op.h"
#include "comm/gloo.h"

#ifdef KVASIR_WITH_CUDA
#include "cuda/comm/comm.h"
#endif

namespace kvasir::addon {

namespace {

// createCommunicator(stream, kind, rank, size, host, timeoutMs, first or -1): communicator id
napi_value createCommunicator(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    CommunicatorOptions options;
    options.kind = info[1].ToString().Utf8Value();
    options.rank = intArg(info, 2);
    options.size = intArg(info, 3);
    options.host = info[4].ToString().Utf8Value();
    options.timeoutMs = intArg(info, 5);
    options.first = intArg(info, 6);
    return Napi::Number::New(env, c.communicators().create(c.sharedStream(intArg(info, 0)), options));
  });
}

// communicatorAddress(id): what the other ranks must know, an ArrayBuffer
napi_value communicatorAddress(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    const Communicator::Bytes bytes = c.communicators().address(intArg(info, 0));
    Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, bytes.size());
    if (!bytes.empty()) std::memcpy(buffer.Data(), bytes.data(), bytes.size());
    return buffer;
  });
}

// connectCommunicator(id, addresses: ArrayBuffer[]): promise
napi_value connectCommunicator(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    if (!info[1].IsArray()) fail(kNativeError, "connectCommunicator expects an array of addresses");
    const auto list = info[1].template As<Napi::Array>();
    std::vector<Communicator::Bytes> addresses;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Value value = list.Get(i);
      if (!value.IsArrayBuffer()) fail(kNativeError, "address %u must be an ArrayBuffer", i);
      auto buffer = value.As<Napi::ArrayBuffer>();
      const char* data = static_cast<const char*>(buffer.Data());
      addresses.emplace_back(data, data + buffer.ByteLength());
    }
    return c.communicators().connect(env, intArg(info, 0), std::move(addresses));
  });
}

// abortCommunicator(id): what waits for other ranks fails
napi_value abortCommunicator(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.communicators().abort(intArg(info, 0));
    return nullptr;
  });
}

// destroyCommunicator(id): freed after the work queued so far
napi_value destroyCommunicator(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.communicators().destroy(intArg(info, 0));
    return nullptr;
  });
}

Napi::Object reportOf(napi_env env, bool found, const std::string& report) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("found", Napi::Boolean::New(env, found));
  result.Set("report", report);
  return result;
}

// commInfo(): { gloo: { found, report }, nccl: { found, report } }
napi_value commInfo(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto&, Context&) -> napi_value {
    Napi::Object result = Napi::Object::New(env);
    const comm::GlooReport gloo = comm::findGloo();
    result.Set("gloo", reportOf(env, gloo.found, gloo.report));
#ifdef KVASIR_WITH_CUDA
    const cuda::NcclReport nccl = cuda::findNccl();
    result.Set("nccl", reportOf(env, nccl.found, nccl.report));
#else
    result.Set("nccl", reportOf(env, false, "this build of the addon has no CUDA backend"));
#endif
    return result;
  });
}

}  // namespace

void registerComm(Napi::Env env, Napi::Object exports) {
  op<ops::allReduce>(env, exports, "allReduce");
  op<ops::allGather>(env, exports, "allGather");
  op<ops::reduceScatter>(env, exports, "reduceScatter");
  op<ops::broadcast>(env, exports, "broadcast");
  exportFunction(env, exports, "createCommunicator", createCommunicator);
  exportFunction(env, exports, "communicatorAddress", communicatorAddress);
  exportFunction(env, exports, "connectCommunicator", connectCommunicator);
  exportFunction(env, exports, "abortCommunicator", abortCommunicator);
  exportFunction(env, exports, "destroyCommunicator", destroyCommunicator);
  exportFunction(env, exports, "commInfo", commInfo);
}

}  // namespace kvasir::addon
