// How finished work reports to JavaScript: completions cross from any thread to the environment's and settle promises there.
#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <mutex>
#include <vector>

namespace kvasir::addon {

// Work that ended and wants to tell JavaScript.
struct Completion {
  napi_deferred deferred = nullptr;
  std::exception_ptr error;
  std::shared_ptr<std::vector<char>> bytes;
};

// Completions cross threads here. After close() nothing touches the thread-safe function any more.
class CompletionQueue {
 public:
  void open(napi_env env);
  void post(Completion completion);
  // JS thread: settles promises.
  void drain(napi_env env);
  // JS thread: one more / one less promise pending; the event loop is kept alive while there are any.
  void began(napi_env env);
  void close();

 private:
  std::mutex mutex_;
  std::vector<Completion> ready_;
  napi_threadsafe_function wake_ = nullptr;
  bool closed_ = true;
  int pending_ = 0;
};

}  // namespace kvasir::addon
