// Typed export: op<ops::rmsNorm>(exports, "rmsNorm") makes the JavaScript function rmsNorm(outRow, xRow, weightRow, eps, gemma).
// Tensors travel as row numbers of the tensor table, an absent optional tensor as -1, communicators as their ids. The stream is that of the
// first tensor.
#pragma once

#include <functional>
#include <tuple>
#include <utility>

#include "addon/context.h"

namespace kvasir::addon {

struct Call {
  Context& context;
  Stream* stream = nullptr;
  const Stream* communicatorStream = nullptr;
};

using CommunicatorRef = std::reference_wrapper<Communicator>;
// What holds a parameter of an op between conversion and call.
template <class P>
using Held = std::conditional_t<std::is_same_v<P, Communicator&>, CommunicatorRef, std::decay_t<P>>;

inline double numberArg(napi_env env, napi_value value) {
  double number = 0;
  if (napi_get_value_double(env, value, &number) != napi_ok) fail(kNativeError, "an op argument must be a number");
  return number;
}

template <class T>
T argument(napi_env env, Call& call, napi_value value) {
  if constexpr (std::is_same_v<T, Tensor>) {
    int32_t row = -1;
    if (napi_get_value_int32(env, value, &row) != napi_ok) fail(kNativeError, "an op argument must be a tensor row");
    return call.context.tensor(row, &call.stream);
  } else if constexpr (std::is_same_v<T, MaybeTensor>) {
    int32_t row = -1;
    if (napi_get_value_int32(env, value, &row) != napi_ok) fail(kNativeError, "an op argument must be a tensor row or -1");
    return row < 0 ? MaybeTensor{} : MaybeTensor{call.context.tensor(row, &call.stream)};
  } else if constexpr (std::is_same_v<T, CommunicatorRef>) {
    const auto id = static_cast<int32_t>(numberArg(env, value));
    call.communicatorStream = &call.context.communicators().streamOf(id);
    return call.context.communicators().connected(id);
  } else if constexpr (std::is_same_v<T, bool>) {
    bool flag = false;
    if (napi_get_value_bool(env, value, &flag) != napi_ok) fail(kNativeError, "an op argument must be a boolean");
    return flag;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return static_cast<int64_t>(numberArg(env, value));
  } else {
    static_assert(std::is_same_v<T, double>, "ops take Tensor, MaybeTensor, Communicator&, double, int64_t and bool");
    return numberArg(env, value);
  }
}

template <auto Fn>
struct Op;

template <class... P, void (*Fn)(Stream&, P...)>
struct Op<Fn> {
  static napi_value call(napi_env env, napi_callback_info info) {
    return guarded(env, [&]() -> napi_value {
      constexpr size_t expected = sizeof...(P);
      napi_value values[expected];
      size_t count = expected;
      napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
      if (count != expected) fail(kNativeError, "an op got %zu arguments, expected %zu", count, expected);
      invoke(env, values, std::index_sequence_for<P...>{});
      return nullptr;
    });
  }

 private:
  template <size_t... I>
  static void invoke(napi_env env, const napi_value* values, std::index_sequence<I...>) {
    Call c{Context::of(env)};
    // Braced initialisation evaluates left to right: the first tensor decides the stream.
    const std::tuple<Held<P>...> args{argument<Held<P>>(env, c, values[I])...};
    if (!c.stream) fail(kNativeError, "an op needs at least one tensor");
    if (c.communicatorStream && c.communicatorStream != c.stream) fail(kTensorError, "the tensors of a collective must be on its communicator's device");
    Fn(*c.stream, std::get<I>(args)...);
  }
};

inline void exportFunction(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

template <auto Fn>
void op(Napi::Env env, Napi::Object exports, const char* name) {
  exportFunction(env, exports, name, Op<Fn>::call);
}

// One list per op family, called by addon/module.cc; a family adds its name here.
#define KVASIR_FAMILIES(X) X(Norm) X(Copy) X(Rope) X(Activation) X(Embedding) X(Sampling) X(Gemm) X(Quant) X(Cache) X(Attention) X(Moe) X(Comm)
#define KVASIR_DECLARE(family) void register##family(Napi::Env env, Napi::Object exports);
KVASIR_FAMILIES(KVASIR_DECLARE)
#undef KVASIR_DECLARE

}  // namespace kvasir::addon
