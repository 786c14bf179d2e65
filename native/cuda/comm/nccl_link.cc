#include "cuda/comm/nccl_link.h"

#include <utility>

#include "core/error.h"

namespace kvasir::cuda {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kWatchPeriod = std::chrono::milliseconds(100);
constexpr auto kFinalizePeriod = std::chrono::seconds(5);  // for what was queued to end
constexpr auto kEndPeriod = std::chrono::seconds(10);      // for all of close()
constexpr auto kAbortPeriod = std::chrono::seconds(3);     // the same after a failure

}  // namespace

NcclLink::NcclLink(std::shared_ptr<const NcclLibrary> library, int device, int rank, int size, int timeoutMs)
    : library_(std::move(library)), device_(device), rank_(rank), size_(size), timeout_(timeoutMs) {}

void NcclLink::open(const nccl::UniqueId& id) {
  KVASIR_CUDA(cudaSetDevice(device_));
  try {
    throwFailure();
    std::lock_guard lock(calls_);
    nccl::Config config;
    config.blocking = 0;
    const nccl::Result result = library_->commInitRankConfig(&comm_, size_, id, rank_, &config);
    watcher_ = std::thread([self = shared_from_this()] { self->watch(); });
    settle("ncclCommInitRankConfig", result);
  } catch (const Error& e) {
    throw Error(kLaunchError, e.what());
  }
}

void NcclLink::call(const char* name, const std::function<nccl::Result(nccl::Comm)>& body) {
  throwFailure();
  std::lock_guard lock(calls_);
  throwFailure();
  if (!comm_) kvasir::fail(kRankError, "%s: this rank is not connected", name);
  settle(name, body(comm_));
}

// A call that goes on is soon done once the ranks know each other; before that it lasts as long as the slowest of them.
void NcclLink::settle(const char* name, nccl::Result result) {
  const auto start = Clock::now();
  while (result == nccl::kInProgress) {
    throwFailure();
    const auto waited = Clock::now() - start;
    if (waited > timeout_) fail(std::string(name) + " does not end within " + std::to_string(timeout_.count()) + " ms: another rank does not answer");
    if (waited > std::chrono::milliseconds(5)) std::this_thread::sleep_for(std::chrono::microseconds(200));
    else std::this_thread::yield();
    const nccl::Result asked = library_->commGetAsyncError(comm_, &result);
    if (asked != nccl::kSuccess) result = asked;
  }
  if (result != nccl::kSuccess) fail(std::string(name) + ": " + library_->describe(result));
  throwFailure();
}

void NcclLink::fail(const std::string& why) noexcept {
  {
    std::lock_guard lock(state_);
    if (failure_) return;
    failure_ = std::make_exception_ptr(Error(kRankError, "rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ": " + why));
    failed_ = true;
  }
  wake_.notify_all();
}

std::exception_ptr NcclLink::failure() noexcept {
  std::lock_guard lock(state_);
  return failure_;
}

void NcclLink::throwFailure() {
  if (failed_) std::rethrow_exception(failure());
}

void NcclLink::watch() noexcept {
  bool broken = false;
  for (;;) {
    {
      std::unique_lock lock(state_);
      wake_.wait_for(lock, kWatchPeriod, [this] { return closing_ || failure_; });
      broken = failure_ != nullptr;
      if (closing_ || broken) break;
    }
    poll();
  }
  end(broken);
  {
    std::lock_guard lock(state_);
    ended_ = true;
  }
  wake_.notify_all();
}

// Asks what the library noticed by itself. While a call is under way, that call hears of it.
void NcclLink::poll() noexcept {
  const std::unique_lock lock(calls_, std::try_to_lock);
  if (!lock.owns_lock() || !comm_) return;
  nccl::Result result = nccl::kSuccess;
  if (library_->commGetAsyncError(comm_, &result) == nccl::kSuccess && (result == nccl::kSuccess || result == nccl::kInProgress)) return;
  fail("the connection to another rank broke: " + library_->describe(result));
}

void NcclLink::end(bool broken) noexcept {
  nccl::Comm comm = nullptr;
  {
    // A call under way leaves at once when the communicator failed; what it began is the library's to stop.
    std::lock_guard lock(calls_);
    comm = std::exchange(comm_, nullptr);
  }
  if (!comm) return;
  cudaSetDevice(device_);
  if (!broken && finalize(comm)) library_->commDestroy(comm);
  else library_->commAbort(comm);
}

bool NcclLink::finalize(nccl::Comm comm) noexcept {
  const auto start = Clock::now();
  nccl::Result result = library_->commFinalize(comm);
  while (result == nccl::kInProgress && !failed_ && Clock::now() - start < kFinalizePeriod) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (library_->commGetAsyncError(comm, &result) != nccl::kSuccess) return false;
  }
  return result == nccl::kSuccess;
}

void NcclLink::close() noexcept {
  if (!watcher_.joinable()) return;
  std::unique_lock lock(state_);
  closing_ = true;
  wake_.notify_all();
  const bool ended = wake_.wait_for(lock, failure_ ? std::chrono::nanoseconds(kAbortPeriod) : std::chrono::nanoseconds(kEndPeriod), [this] { return ended_; });
  lock.unlock();
  // The thread keeps this object as long as it needs it.
  if (ended) watcher_.join();
  else watcher_.detach();
}

}  // namespace kvasir::cuda
