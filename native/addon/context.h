// Everything an environment (main thread or worker_thread) owns natively: the tensor table's address, storages, streams, and the
// channel on which finished work reports back. One per napi_env, ended by its cleanup hook; nothing here is shared or static.
#pragma once

#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

#include "addon/communicators.h"
#include "addon/completions.h"
#include "core/error.h"
#include "core/storage.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::addon {

// A row of the tensor table: 16 int32 words (64 bytes), written by lib/tensor/table.ts.
//   0 storage id · 1 dtype · 2 rank · 3 layout · 4-5 byte offset (float64) · 6-10 dims · 11-15 strides in elements
inline constexpr int kRowWords = 16;

class Context {
 public:
  explicit Context(napi_env env);
  ~Context();
  static Context& of(napi_env env);

  void setTable(napi_env env, napi_value table);
  Tensor tensor(int32_t row, Stream** stream) const;
  Storage& storageOf(int32_t row) const;

  int32_t createStream(Device device, int32_t threads, int32_t ordinal);
  Stream& stream(int32_t id) const { return *sharedStream(id); }
  const std::shared_ptr<Stream>& sharedStream(int32_t id) const;
  void destroyStream(int32_t id);
  int32_t allocate(int32_t streamId, int64_t bytes);
  void release(int32_t storageId);
  const StorageCounters& counters() const { return *counters_; }
  Communicators& communicators() { return communicators_; }

  // A promise that settles after all earlier work of the stream; with `bytes`, it resolves with them as an ArrayBuffer.
  napi_value fence(napi_env env, Stream& stream, std::shared_ptr<std::vector<char>> bytes);
  // Ends what waits for other ranks, then joins the streams' threads; called by the environment's cleanup hook.
  void shutdown();

 private:
  const int32_t* table_ = nullptr;
  int32_t rows_ = 0;
  napi_ref tableRef_ = nullptr;
  std::shared_ptr<StorageCounters> counters_ = std::make_shared<StorageCounters>();
  std::vector<std::shared_ptr<Stream>> streams_;
  std::vector<std::shared_ptr<Storage>> storages_;
  std::vector<int32_t> freeStorages_;
  std::shared_ptr<CompletionQueue> completions_ = std::make_shared<CompletionQueue>();
  Communicators communicators_{completions_};
};

// Runs fn; what it throws becomes a JavaScript exception with a `code`.
template <class F>
napi_value guarded(napi_env env, F&& fn) noexcept {
  try {
    return fn();
  } catch (const Error& e) {
    napi_throw_error(env, e.code(), e.what());
  } catch (const Napi::Error& e) {
    // Throws again where no JavaScript can run any more (a worker_thread that is being terminated).
    try {
      e.ThrowAsJavaScriptException();
    } catch (const Napi::Error&) {
    }
  } catch (const std::exception& e) {
    napi_throw_error(env, kNativeError, e.what());
  } catch (...) {
    napi_throw_error(env, kNativeError, "unknown C++ exception");
  }
  return nullptr;
}

}  // namespace kvasir::addon
