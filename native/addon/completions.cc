#include "addon/completions.h"

#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"

namespace kvasir::addon {

void CompletionQueue::open(napi_env env) {
  napi_value name;
  napi_create_string_utf8(env, "kvasir", NAPI_AUTO_LENGTH, &name);
  auto call = [](napi_env e, napi_value, void* context, void*) {
    if (e) static_cast<CompletionQueue*>(context)->drain(e);
  };
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, call, &wake_) != napi_ok)
    fail(kNativeError, "could not create the completion channel");
  napi_unref_threadsafe_function(env, wake_);
  closed_ = false;
}

void CompletionQueue::post(Completion completion) {
  std::lock_guard lock(mutex_);
  if (closed_) return;  // the environment is going: nobody waits any more
  const bool first = ready_.empty();
  ready_.push_back(std::move(completion));
  if (first) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void CompletionQueue::began(napi_env env) {
  if (pending_++ == 0) napi_ref_threadsafe_function(env, wake_);
}

namespace {

napi_value errorValue(napi_env env, const std::exception_ptr& error) {
  const char* code = kNativeError;
  std::string message = "unknown C++ exception";
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    code = e.code();
    message = e.what();
  } catch (const std::exception& e) {
    message = e.what();
  } catch (...) {
  }
  napi_value jsCode, jsMessage, value;
  napi_create_string_utf8(env, code, NAPI_AUTO_LENGTH, &jsCode);
  napi_create_string_utf8(env, message.c_str(), message.size(), &jsMessage);
  napi_create_error(env, jsCode, jsMessage, &value);
  return value;
}

}  // namespace

void CompletionQueue::drain(napi_env env) {
  std::vector<Completion> ready;
  {
    std::lock_guard lock(mutex_);
    ready.swap(ready_);
  }
  for (Completion& c : ready) {
    if (--pending_ == 0) napi_unref_threadsafe_function(env, wake_);
    napi_value value = nullptr;
    if (c.error) {
      napi_reject_deferred(env, c.deferred, errorValue(env, c.error));
    } else if (c.bytes) {
      void* data = nullptr;
      // Fails in a worker_thread that is being terminated: no JavaScript runs there any more, and nobody waits.
      if (napi_create_arraybuffer(env, c.bytes->size(), &data, &value) != napi_ok) continue;
      if (!c.bytes->empty()) std::memcpy(data, c.bytes->data(), c.bytes->size());
      napi_resolve_deferred(env, c.deferred, value);
    } else {
      napi_get_undefined(env, &value);
      napi_resolve_deferred(env, c.deferred, value);
    }
  }
}

void CompletionQueue::close() {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  ready_.clear();
  napi_release_threadsafe_function(wake_, napi_tsfn_abort);
}

}  // namespace kvasir::addon
