// The communicators of an environment, by id.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "addon/completions.h"
#include "core/communicator.h"

namespace kvasir::addon {

struct CommunicatorOptions {
  std::string kind;  // "local", "gloo", "nccl"
  int rank = 0;
  int size = 1;
  std::string host;
  int timeoutMs = 0;
  int32_t first = -1;  // local: rank 0's communicator
};

class Communicators {
 public:
  explicit Communicators(std::shared_ptr<CompletionQueue> completions) : completions_(std::move(completions)) {}
  ~Communicators() { shutdown(); }

  int32_t create(std::shared_ptr<Stream> stream, const CommunicatorOptions& options);
  Communicator::Bytes address(int32_t id) const { return entry(id).communicator->address(); }
  // A promise; the connection is made in a thread of its own, so that neither JavaScript nor the stream waits for other ranks.
  napi_value connect(napi_env env, int32_t id, std::vector<Communicator::Bytes> addresses);
  // For collectives: throws ERR_KVASIR_LAUNCH when connect() has not succeeded.
  Communicator& connected(int32_t id) const;
  Stream& streamOf(int32_t id) const { return *entry(id).stream; }
  void abort(int32_t id) { entry(id).communicator->abort(); }
  // Freed after the work queued so far; a connection that is being made fails.
  void destroy(int32_t id);
  // Aborts all, so that no stream waits for another rank any more, and frees them.
  void shutdown() noexcept;

 private:
  enum class State { Made, Connecting, Connected, Failed };
  struct Entry {
    std::shared_ptr<Communicator> communicator;
    std::shared_ptr<Stream> stream;
    std::atomic<State> state{State::Made};
    std::thread connecting;
  };
  Entry& entry(int32_t id) const;

  std::shared_ptr<CompletionQueue> completions_;
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace kvasir::addon
