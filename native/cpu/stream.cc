#include "cpu/stream.h"

#include <chrono>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvasir::cpu {

namespace {
constexpr int kSpins = 2000;
}

CpuStream::CpuStream(int threads) : pool_(threads), worker_([this] { loop(); }) {}

CpuStream::~CpuStream() { shutdown(); }

void CpuStream::enqueue(const char* name, std::function<void()> task) { push({name, std::move(task), nullptr}); }

void CpuStream::fence(std::function<void(std::exception_ptr)> done) { push({"fence", nullptr, std::move(done)}); }

void CpuStream::push(Task task) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
    pending_.store(true, std::memory_order_release);
    wake = sleeping_;
  }
  if (wake) wake_.notify_one();
}

void CpuStream::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (worker_.joinable()) worker_.join();
}

void CpuStream::loop() {
  std::vector<Task> batch;
  for (;;) {
    for (int spins = 0; spins < kSpins && !pending_.load(std::memory_order_acquire); ++spins) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    {
      std::unique_lock lock(mutex_);
      sleeping_ = true;
      wake_.wait(lock, [this] { return !queue_.empty() || stop_; });
      sleeping_ = false;
      if (queue_.empty()) return;  // stopped and drained
      batch.swap(queue_);
      pending_.store(false, std::memory_order_relaxed);
    }
    for (Task& task : batch) {
      execute(task);
      task = {};  // releases what it captured now, in order
    }
    batch.clear();
  }
}

void CpuStream::execute(Task& task) {
  if (task.fence) {
    task.fence(std::exchange(error_, nullptr));
    return;
  }
  if (error_) return;  // later work may depend on what failed; the next fence reports it
  const bool profiling = profiling_.load(std::memory_order_relaxed);
  const auto start = profiling ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point{};
  try {
    task.run();
  } catch (...) {
    error_ = std::current_exception();
  }
  if (profiling) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::lock_guard lock(profileMutex_);
    ProfileRow& row = profile_[task.name];
    row.calls += 1;
    row.seconds += seconds;
  }
}

std::map<std::string, Stream::ProfileRow> CpuStream::profile() const {
  std::lock_guard lock(profileMutex_);
  return profile_;
}

}  // namespace kvasir::cpu
