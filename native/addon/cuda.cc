// What the addon says and does about CUDA: devices found, memory, graphs. Without the backend it says so.
#include "addon/cuda.h"

#include "addon/op.h"

#ifdef KVASIR_WITH_CUDA
#include "cuda/gemm/context.h"
#include "cuda/stream.h"
#endif

namespace kvasir::addon {

#ifdef KVASIR_WITH_CUDA

std::shared_ptr<Stream> createCudaStream(int device) { return std::make_shared<cuda::CudaStream>(device); }

namespace {

cuda::CudaStream& cudaStream(const Napi::CallbackInfo& info, Context& c) {
  Stream& stream = c.stream(info[0].ToNumber().Int32Value());
  if (stream.device() != Device::Cuda) fail(kUnsupportedError, "the stream is not a CUDA stream");
  return cuda::of(stream);
}

Napi::Value describeDevices(Napi::Env env) {
  const cuda::DeviceReport report = cuda::devices();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array list = Napi::Array::New(env);
  for (int i = 0; i < report.count; ++i) {
    const cuda::DeviceProperties properties = cuda::describe(i);
    Napi::Object device = Napi::Object::New(env);
    device.Set("name", properties.name);
    device.Set("computeCapability", properties.computeCapability);
    device.Set("totalBytes", static_cast<double>(properties.totalBytes));
    device.Set("multiprocessors", properties.multiprocessors);
    list.Set(list.Length(), device);
  }
  result.Set("built", true);
  result.Set("deviceCount", report.count);
  result.Set("problem", report.problem);
  result.Set("devices", list);
  return result;
}

// deviceMemory(stream): { free, total } in bytes
napi_value deviceMemory(napi_env env, napi_callback_info raw) {
  return guarded(env, [&]() -> napi_value {
    Napi::CallbackInfo info(env, raw);
    cuda::CudaStream& stream = cudaStream(info, Context::of(env));
    const auto [free, total] = stream.memory();
    Napi::Object result = Napi::Object::New(env);
    result.Set("free", static_cast<double>(free));
    result.Set("total", static_cast<double>(total));
    return result;
  });
}

// beginCapture(stream); endCapture(stream): graph id, or discardCapture(stream); launchGraph(stream, id); destroyGraph(stream, id)
template <class F>
napi_value graphCall(napi_env env, napi_callback_info raw, F&& body) {
  return guarded(env, [&]() -> napi_value {
    Napi::CallbackInfo info(env, raw);
    return body(info, cudaStream(info, Context::of(env)));
  });
}

napi_value beginCapture(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [](auto&, cuda::CudaStream& s) -> napi_value {
    s.beginCapture();
    return nullptr;
  });
}

napi_value endCapture(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [&](auto&, cuda::CudaStream& s) -> napi_value { return Napi::Number::New(env, s.endCapture()); });
}

napi_value discardCapture(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [](auto&, cuda::CudaStream& s) -> napi_value {
    s.discardCapture();
    return nullptr;
  });
}

// graphInfo(stream, id): { nodes, kernels, copies, memsets, others, edges, early, straightLine }
napi_value graphInfo(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [&](auto& info, cuda::CudaStream& s) -> napi_value {
    const cuda::GraphInfo graph = s.graphInfo(info[1].ToNumber().Int32Value());
    Napi::Object result = Napi::Object::New(env);
    const auto set = [&](const char* name, int64_t value) { result.Set(name, static_cast<double>(value)); };
    set("nodes", graph.nodes);
    set("kernels", graph.kernels);
    set("copies", graph.copies);
    set("memsets", graph.memsets);
    set("others", graph.others);
    set("edges", graph.edges);
    set("early", graph.early);
    result.Set("straightLine", Napi::Boolean::New(env, graph.straightLine()));
    return result;
  });
}

napi_value launchGraph(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [](auto& info, cuda::CudaStream& s) -> napi_value {
    s.launchGraph(info[1].ToNumber().Int32Value());
    return nullptr;
  });
}

napi_value destroyGraph(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [](auto& info, cuda::CudaStream& s) -> napi_value {
    s.destroyGraph(info[1].ToNumber().Int32Value());
    return nullptr;
  });
}

// configureGemm(stream, useCublasLt, cublasLtPath, batchInvariant, tune, planFolder): see GemmOptions
napi_value configureGemm(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [](auto& info, cuda::CudaStream& s) -> napi_value {
    s.gemm().configure({info[1].ToBoolean().Value(), info[2].ToString().Utf8Value(), info[3].ToBoolean().Value(), info[4].ToBoolean().Value(),
                        info[5].ToString().Utf8Value()});
    return nullptr;
  });
}

// gemmReport(stream): whether cuBLASLt is in use, or where it was looked for
napi_value gemmReport(napi_env env, napi_callback_info raw) {
  return graphCall(env, raw, [&](auto&, cuda::CudaStream& s) -> napi_value { return Napi::String::New(env, s.gemm().report()); });
}

// findCublasLt(): { found, report }; needs no device
napi_value findCublasLt(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    std::string report;
    Napi::Object result = Napi::Object::New(env);
    result.Set("found", cuda::CublasLt::find("", report));
    result.Set("report", report);
    return result;
  });
}

}  // namespace

#else

std::shared_ptr<Stream> createCudaStream(int) { fail(kUnsupportedError, "this build of the addon has no CUDA backend"); }

#endif

namespace {

// cudaInfo(): { built, deviceCount, problem, devices: [{ name, computeCapability, totalBytes, multiprocessors }] }
napi_value cudaInfo(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
#ifdef KVASIR_WITH_CUDA
    return describeDevices(env);
#else
    Napi::Object result = Napi::Object::New(env);
    result.Set("built", false);
    result.Set("deviceCount", 0);
    result.Set("problem", "this build of the addon has no CUDA backend");
    result.Set("devices", Napi::Array::New(env));
    return result;
#endif
  });
}

}  // namespace

void registerCuda(Napi::Env env, Napi::Object exports) {
  exportFunction(env, exports, "cudaInfo", cudaInfo);
#ifdef KVASIR_WITH_CUDA
  exportFunction(env, exports, "deviceMemory", deviceMemory);
  exportFunction(env, exports, "beginCapture", beginCapture);
  exportFunction(env, exports, "endCapture", endCapture);
  exportFunction(env, exports, "discardCapture", discardCapture);
  exportFunction(env, exports, "graphInfo", graphInfo);
  exportFunction(env, exports, "launchGraph", launchGraph);
  exportFunction(env, exports, "destroyGraph", destroyGraph);
  exportFunction(env, exports, "configureGemm", configureGemm);
  exportFunction(env, exports, "gemmReport", gemmReport);
  exportFunction(env, exports, "findCublasLt", findCublasLt);
#endif
}

}  // namespace kvasir::addon
