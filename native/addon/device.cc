// Streams, memory and what the machine is: everything of the addon that is not an op.
#include "addon/device.h"

#include <cstring>

#include "addon/info.h"
#include "addon/op.h"
#include "cpu/isa.h"
#include "cpu/probe.h"
#include "cpu/stream.h"

namespace kvasir::addon {

namespace {

// setTable(table: Int32Array)
napi_value setTable(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.setTable(env, info[0]);
    return nullptr;
  });
}

// createStream(device, threads, ordinal = 0): stream id; ordinal: which CUDA device
napi_value createStream(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    return Napi::Number::New(env, c.createStream(static_cast<Device>(intArg(info, 0)), intArg(info, 1), info.Length() > 2 ? intArg(info, 2) : 0));
  });
}

// destroyStream(id): waits for its work, joins its threads
napi_value destroyStream(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.destroyStream(intArg(info, 0));
    return nullptr;
  });
}

// allocate(stream, bytes): storage id of zeroed memory
napi_value allocate(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    return Napi::Number::New(env, c.allocate(intArg(info, 0), info[1].ToNumber().Int64Value()));
  });
}

// release(storage): frees it after the work queued so far
napi_value release(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.release(intArg(info, 0));
    return nullptr;
  });
}

// liveStorages(): { count, bytes }
napi_value liveStorages(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto&, Context& c) -> napi_value {
    Napi::Object result = Napi::Object::New(env);
    result.Set("count", static_cast<double>(c.counters().count.load()));
    result.Set("bytes", static_cast<double>(c.counters().bytes.load()));
    return result;
  });
}

// synchronize(stream): promise
napi_value synchronize(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value { return c.fence(env, c.stream(intArg(info, 0)), nullptr); });
}

// write(row, view): copies the view's bytes now, stores them into the (contiguous) tensor in stream order
napi_value write(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    Stream* stream = nullptr;
    const Tensor t = c.tensor(intArg(info, 0), &stream);
    if (!info[1].IsTypedArray()) fail(kNativeError, "write expects a typed array");
    const auto view = info[1].template As<Napi::TypedArray>();
    const auto bytes = static_cast<int64_t>(view.ByteLength());
    if (!t.contiguous() || bytes > t.numel() * elementSize(t.dtype)) fail(kTensorError, "write: %lld bytes do not fit the tensor", static_cast<long long>(bytes));
    const char* from = static_cast<const char*>(view.ArrayBuffer().Data()) + view.ByteOffset();
    stream->write(t, std::vector<char>(from, from + bytes));
    return nullptr;
  });
}

// read(row): promise of an ArrayBuffer with the (contiguous) tensor's bytes, after all earlier work
napi_value read(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    Stream* stream = nullptr;
    const Tensor t = c.tensor(intArg(info, 0), &stream);
    if (!t.contiguous()) fail(kTensorError, "read: the tensor must be contiguous");
    auto bytes = std::make_shared<std::vector<char>>();
    stream->read(bytes, t);
    return c.fence(env, *stream, bytes);
  });
}

// cpuInfo(): { isa, bestIsa }
napi_value cpuInfo(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto&, Context&) -> napi_value {
    Napi::Object result = Napi::Object::New(env);
    result.Set("isa", cpu::isaName(cpu::isa()));
    result.Set("bestIsa", cpu::isaName(cpu::bestIsa()));
    return result;
  });
}

// setIsa(level): 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512 BF16; returns the name of the level in use
napi_value setIsa(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context&) -> napi_value {
    cpu::setIsa(static_cast<cpu::Isa>(intArg(info, 0)));
    return Napi::String::New(env, cpu::isaName(cpu::isa()));
  });
}

// setProfiling(stream, on) and profile(stream): { op: { calls, seconds } }
napi_value setProfiling(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    c.stream(intArg(info, 0)).setProfiling(info[1].ToBoolean().Value());
    return nullptr;
  });
}

napi_value profile(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    Napi::Object result = Napi::Object::New(env);
    for (const auto& [name, row] : c.stream(intArg(info, 0)).profile()) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("calls", static_cast<double>(row.calls));
      entry.Set("seconds", row.seconds);
      result.Set(name, entry);
    }
    return result;
  });
}

// probeMachine(stream, bytes): promise of Float64Array-sized bytes [read bytes/s, multiply-add flops/s] of the stream's threads
napi_value probeMachine(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    if (c.stream(intArg(info, 0)).device() != Device::Cpu) fail(kUnsupportedError, "probeMachine measures a CPU stream");
    auto& stream = static_cast<cpu::CpuStream&>(c.stream(intArg(info, 0)));
    const int64_t size = info[1].ToNumber().Int64Value();
    auto result = std::make_shared<std::vector<char>>(2 * sizeof(double));
    stream.enqueue("probe", [&stream, size, result] {
      char* memory = static_cast<char*>(stream.allocate(size));
      std::memset(memory, 1, static_cast<size_t>(size));
      const double figures[2] = {cpu::probeReadBandwidth(stream.pool(), memory, size), cpu::probePeakFlops(stream.pool())};
      stream.deallocate(memory, size);
      std::memcpy(result->data(), figures, sizeof figures);
    });
    return c.fence(env, stream, result);
  });
}

// raise(stream, where): throws a C++ exception at the call (0) or inside queued work (1): shows that neither ends the process
napi_value raise(napi_env env, napi_callback_info raw) {
  return withInfo(env, raw, [&](auto& info, Context& c) -> napi_value {
    Stream& stream = c.stream(intArg(info, 0));
    if (intArg(info, 1) == 0) throw std::runtime_error("raised at the call");
    stream.enqueue("raise", [] { throw std::runtime_error("raised in queued work"); });
    return nullptr;
  });
}

}  // namespace

void registerDevice(Napi::Env env, Napi::Object exports) {
  exportFunction(env, exports, "setTable", setTable);
  exportFunction(env, exports, "createStream", createStream);
  exportFunction(env, exports, "destroyStream", destroyStream);
  exportFunction(env, exports, "allocate", allocate);
  exportFunction(env, exports, "release", release);
  exportFunction(env, exports, "liveStorages", liveStorages);
  exportFunction(env, exports, "synchronize", synchronize);
  exportFunction(env, exports, "write", write);
  exportFunction(env, exports, "read", read);
  exportFunction(env, exports, "cpuInfo", cpuInfo);
  exportFunction(env, exports, "setIsa", setIsa);
  exportFunction(env, exports, "setProfiling", setProfiling);
  exportFunction(env, exports, "profile", profile);
  exportFunction(env, exports, "probeMachine", probeMachine);
  exportFunction(env, exports, "raise", raise);
}

}  // namespace kvasir::addon
