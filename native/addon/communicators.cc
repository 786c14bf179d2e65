#include "addon/communicators.h"

#include <utility>

#include "comm/gloo.h"
#include "comm/local.h"
#include "core/error.h"

#ifdef KVASIR_WITH_CUDA
#include "cuda/comm/comm.h"
#include "cuda/stream.h"
#endif

namespace kvasir::addon {

namespace {

std::unique_ptr<Communicator> makeForCpu(const CommunicatorOptions& o, Communicator* first) {
  if (o.kind == "local") return comm::localCommunicator(o.rank, o.size, o.timeoutMs, first);
  if (o.kind == "gloo") return comm::glooCommunicator(o.rank, o.size, o.host, o.timeoutMs);
  fail(kUnsupportedError, "a communicator of a CPU device is \"local\" or \"gloo\"; received \"%s\"", o.kind.c_str());
}

std::unique_ptr<Communicator> makeForCuda([[maybe_unused]] Stream& stream, const CommunicatorOptions& o, [[maybe_unused]] Communicator* first) {
#ifdef KVASIR_WITH_CUDA
  if (o.kind == "local") return cuda::localCommunicator(cuda::of(stream), o.rank, o.size, first);
  if (o.kind == "nccl") return cuda::ncclCommunicator(cuda::of(stream), o.rank, o.size, o.timeoutMs);
#endif
  fail(kUnsupportedError, "a communicator of a CUDA device is \"local\" or \"nccl\"; received \"%s\"", o.kind.c_str());
}

}  // namespace

int32_t Communicators::create(std::shared_ptr<Stream> stream, const CommunicatorOptions& o) {
  if (o.size < 1 || o.rank < 0 || o.rank >= o.size) fail(kLaunchError, "rank %d is not one of a group of %d", o.rank, o.size);
  if (o.timeoutMs < 1) fail(kLaunchError, "a communicator's timeout must be at least 1 ms, got %d", o.timeoutMs);
  Communicator* first = o.first < 0 ? nullptr : entry(o.first).communicator.get();
  auto made = std::make_unique<Entry>();
  made->communicator = stream->device() == Device::Cuda ? makeForCuda(*stream, o, first) : makeForCpu(o, first);
  made->stream = std::move(stream);
  entries_.push_back(std::move(made));
  return static_cast<int32_t>(entries_.size()) - 1;
}

Communicators::Entry& Communicators::entry(int32_t id) const {
  if (id < 0 || id >= static_cast<int32_t>(entries_.size()) || !entries_[static_cast<size_t>(id)])
    fail(kDisposedError, "communicator %d is closed", id);
  return *entries_[static_cast<size_t>(id)];
}

Communicator& Communicators::connected(int32_t id) const {
  const Entry& e = entry(id);
  if (e.state.load() != State::Connected) fail(kLaunchError, "the communicator of rank %d is not connected with the other ranks", e.communicator->rank());
  return *e.communicator;
}

napi_value Communicators::connect(napi_env env, int32_t id, std::vector<Communicator::Bytes> addresses) {
  Entry& e = entry(id);
  if (e.state.load() != State::Made) fail(kLaunchError, "the communicator of rank %d was connected before", e.communicator->rank());
  if (static_cast<int>(addresses.size()) != e.communicator->size())
    fail(kLaunchError, "a group of %d ranks has as many addresses, got %zu", e.communicator->size(), addresses.size());
  napi_value promise;
  Completion done;
  if (napi_create_promise(env, &done.deferred, &promise) != napi_ok) fail(kNativeError, "could not create a promise");
  e.state.store(State::Connecting);
  // The entry outlives the thread: whoever removes it joins first.
  e.connecting = std::thread([&e, done, completions = completions_, addresses = std::move(addresses)]() mutable {
    try {
      e.communicator->connect(addresses);
      e.state.store(State::Connected);
    } catch (...) {
      e.state.store(State::Failed);
      done.error = std::current_exception();
    }
    completions->post(std::move(done));
  });
  completions_->began(env);
  return promise;
}

void Communicators::destroy(int32_t id) {
  Entry& e = entry(id);
  if (e.state.load() == State::Connecting) e.communicator->abort();
  if (e.connecting.joinable()) e.connecting.join();
  e.stream->releaseLater(std::move(e.communicator));
  entries_[static_cast<size_t>(id)].reset();
}

void Communicators::shutdown() noexcept {
  for (const auto& e : entries_)
    if (e) e->communicator->abort();
  for (const auto& e : entries_)
    if (e && e->connecting.joinable()) e->connecting.join();
  entries_.clear();
}

}  // namespace kvasir::addon
