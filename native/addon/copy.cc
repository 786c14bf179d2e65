#include "ops/copy.h"

#include "addon/op.h"

namespace kvasir::addon {

namespace {

void readInts(const Napi::Array& array, int64_t* to) {
  for (uint32_t i = 0; i < array.Length() && i < kMaxRank; ++i) to[i] = array.Get(i).As<Napi::Number>().Int64Value();
}

// loadFromFile(outRow, fd, byteOffset, dtype, dims: number[], strides: number[]): number
napi_value loadFromFile(napi_env env, napi_callback_info raw) {
  return guarded(env, [&]() -> napi_value {
    Napi::CallbackInfo info(env, raw);
    if (info.Length() != 6 || !info[4].IsArray() || !info[5].IsArray()) fail(kNativeError, "loadFromFile got wrong arguments");
    Stream* stream = nullptr;
    const Tensor out = Context::of(env).tensor(info[0].ToNumber().Int32Value(), &stream);
    ops::FileTensor source{};
    source.fd = info[1].ToNumber().Int32Value();
    source.byteOffset = info[2].ToNumber().Int64Value();
    source.dtype = static_cast<DType>(info[3].ToNumber().Int32Value());
    source.rank = static_cast<int32_t>(info[4].As<Napi::Array>().Length());
    if (source.rank > kMaxRank) fail(kTensorError, "loadFromFile: at most %d dimensions", kMaxRank);
    readInts(info[4].As<Napi::Array>(), source.dims);
    readInts(info[5].As<Napi::Array>(), source.strides);
    return Napi::Number::New(env, static_cast<double>(ops::loadFromFile(*stream, out, source)));
  });
}

}  // namespace

void registerCopy(Napi::Env env, Napi::Object exports) {
  op<ops::copy>(env, exports, "copy");
  op<ops::gatherRows>(env, exports, "gatherRows");
  op<ops::scatterElements>(env, exports, "scatterElements");
  op<ops::selectElements>(env, exports, "selectElements");
  op<ops::fill>(env, exports, "fill");
  op<ops::fillRandom>(env, exports, "fillRandom");
  exportFunction(env, exports, "loadFromFile", loadFromFile);
}

}  // namespace kvasir::addon
