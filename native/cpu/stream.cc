#include "cpu/stream.h"

#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvasir::cpu {

namespace {
constexpr int kSpins = 2000;
constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;

// 64 spare bytes let vector kernels read past the last element. What would fill most of a last huge page gets all of it.
int64_t mappedBytes(int64_t bytes) {
  const int64_t size = (bytes + 64 + kPage - 1) / kPage * kPage, rest = size % kHugePage;
  return size > kHugePage && rest > kHugePage / 2 ? size + kHugePage - rest : size;
}

void* mapPages(int64_t bytes) {
  void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

#ifdef MADV_HUGEPAGE
// Begins at a multiple of a huge page: only whole ones of a mapping can be huge. Weights of a few megabytes would otherwise lie in small
// pages for a good part, and reading them would wait for the tables of their addresses, in a virtual machine twice.
void* mapHugePages(int64_t bytes) {
  char* p = static_cast<char*>(mapPages(bytes + kHugePage));
  if (!p) return nullptr;
  const int64_t head = (kHugePage - static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)) % kHugePage) % kHugePage;
  if (head > 0) munmap(p, static_cast<size_t>(head));
  munmap(p + head + bytes, static_cast<size_t>(kHugePage - head));
  madvise(p + head, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return p + head;
}
#endif
}  // namespace

CpuStream::CpuStream(int threads) : pool_(threads), worker_([this] { loop(); }) {}

CpuStream::~CpuStream() { shutdown(); }

// mmap: zero pages on first touch (by the thread that will use them), and the memory goes back to the system when freed.
void* CpuStream::allocate(int64_t bytes) {
  const int64_t size = mappedBytes(bytes);
#ifdef MADV_HUGEPAGE
  void* p = size >= kHugePage ? mapHugePages(size) : mapPages(size);
#else
  void* p = mapPages(size);
#endif
  if (!p) fail(kMemoryError, "could not allocate %lld bytes of host memory", static_cast<long long>(bytes));
  return p;
}

void CpuStream::deallocate(void* memory, int64_t bytes) noexcept { munmap(memory, static_cast<size_t>(mappedBytes(bytes))); }

void CpuStream::releaseLater(std::shared_ptr<void> object) {
  enqueue("free", [object = std::move(object)]() mutable { object.reset(); });
}

void CpuStream::write(const Tensor& to, std::vector<char> bytes) {
  enqueue("write", [to, bytes = std::move(bytes)] {
    if (!bytes.empty()) std::memcpy(to.data, bytes.data(), bytes.size());
  });
}

void CpuStream::read(std::shared_ptr<std::vector<char>> to, const Tensor& from) {
  enqueue("read", [to = std::move(to), from] {
    const char* data = static_cast<const char*>(from.data);
    to->insert(to->end(), data, data + from.numel() * elementSize(from.dtype));
  });
}

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
