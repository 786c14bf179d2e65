#include "comm/local_group.h"

#include <cstring>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"

namespace kvasir::comm {

namespace {

constexpr int kSpins = 1000;  // some 20 us

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

std::string describe(const LocalCall& call) {
  return std::string(call.op) + " of " + std::to_string(call.elements) + " " + dtypeName(call.dtype) +
         (std::strcmp(call.op, "broadcast") == 0 ? " from rank " + std::to_string(call.root) : "");
}

bool agree(const LocalCall& a, const LocalCall& b) {
  return std::strcmp(a.op, b.op) == 0 && a.dtype == b.dtype && a.elements == b.elements && a.root == b.root;
}

}  // namespace

template <class F>
void LocalGroup::spin(F&& done) const {
  if (static_cast<unsigned>(size_) > std::thread::hardware_concurrency()) return;
  for (int i = 0; i < kSpins && !done(); ++i) pause();
}

void LocalGroup::failLocked(const std::string& reason) {
  if (failed_.load()) return;
  reason_ = reason;
  failed_.store(true);
  wake_.notify_all();
}

void LocalGroup::fail(const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  failLocked(reason);
}

void LocalGroup::throwFailure(const char* code) const { kvasir::fail(code, "%s", reason_.c_str()); }

void LocalGroup::join() {
  std::unique_lock lock(mutex_);
  if (++joined_ == size_) wake_.notify_all();
  wake_.wait_for(lock, timeout_, [&] { return joined_ == size_ || failed_.load(); });
  if (joined_ < size_) failLocked("only " + std::to_string(joined_) + " of " + std::to_string(size_) + " ranks connected within " + std::to_string(timeout_.count()) + " ms");
  if (failed_.load()) throwFailure(kLaunchError);
}

// All calls are there: compares them and lets the ranks work.
void LocalGroup::begin() {
  for (int r = 1; r < size_; ++r) {
    const LocalCall &a = calls_[0], &b = calls_[static_cast<size_t>(r)];
    if (agree(a, b)) continue;
    failLocked("the ranks run different collectives: " + describe(a) + " on rank 0, " + describe(b) + " on rank " + std::to_string(r));
    throwFailure(kRankError);
  }
  arrived_ = 0;
  working_.store(size_);
  generation_.fetch_add(1);
  wake_.notify_all();
}

void LocalGroup::arrive(int rank, const LocalCall& call) {
  std::unique_lock lock(mutex_);
  if (failed_.load()) throwFailure(kRankError);
  calls_[static_cast<size_t>(rank)] = call;
  const uint64_t generation = generation_.load();
  if (++arrived_ == size_) return begin();
  const auto over = [&] { return generation_.load() != generation || failed_.load(); };
  lock.unlock();
  spin(over);
  lock.lock();
  if (!wake_.wait_for(lock, timeout_, over))
    failLocked(std::to_string(size_ - arrived_) + " of " + std::to_string(size_) + " ranks did not come to " + describe(call) + " within " + std::to_string(timeout_.count()) + " ms");
  if (generation_.load() == generation) throwFailure(kRankError);
}

void LocalGroup::leave() {
  std::unique_lock lock(mutex_);
  if (working_.fetch_sub(1) == 1) return wake_.notify_all();
  // The next collective cannot begin before this rank has come to it, so 0 is not missed.
  const auto over = [&] { return working_.load() == 0; };
  lock.unlock();
  spin(over);
  lock.lock();
  wake_.wait(lock, over);
}

LocalGroup::Meeting::Meeting(LocalGroup& group, int rank, const LocalCall& call) : group_(group) { group_.arrive(rank, call); }

LocalGroup::Meeting::~Meeting() { group_.leave(); }

}  // namespace kvasir::comm
