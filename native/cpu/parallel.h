// The CPU backend's own thread pool: the calling thread and size()-1 helpers. Helpers spin briefly for the next job, then sleep,
// so that consecutive kernels of a step start in well under a microsecond and an idle engine takes no CPU.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace kvasir::cpu {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls fn(chunk, thread) for each chunk in [0, chunks), on any thread, in any order; returns when all are done.
  // thread is in [0, size()) and is one thread at a time: index scratch memory by it. fn must not throw and must not call run().
  template <class F>
  void run(int64_t chunks, F&& fn) {
    if (chunks <= 0) return;
    if (chunks == 1 || helpers_.empty()) {
      for (int64_t i = 0; i < chunks; ++i) fn(i, 0);
      return;
    }
    auto thunk = [](void* context, int64_t chunk, int thread) { (*static_cast<std::remove_reference_t<F>*>(context))(chunk, thread); };
    runJob(chunks, thunk, const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Splits [0, n) into ranges of at least `grain` items: fn(begin, end, thread).
  template <class F>
  void forRange(int64_t n, int64_t grain, F&& fn) {
    if (n <= 0) return;
    const int64_t most = static_cast<int64_t>(size()) * 4;
    const int64_t chunks = std::min(most, std::max<int64_t>(1, n / std::max<int64_t>(1, grain)));
    if (chunks == 1) return fn(int64_t{0}, n, 0);
    run(chunks, [&](int64_t c, int thread) { fn(n * c / chunks, n * (c + 1) / chunks, thread); });
  }

  // At least `bytes` of 64-byte aligned memory that belongs to `thread` until its next scratch call. Contents are not kept.
  void* scratch(int thread, int64_t bytes);

 private:
  using Thunk = void (*)(void*, int64_t, int);
  void runJob(int64_t chunks, Thunk thunk, void* context);
  void helperLoop(int thread);
  void work(uint64_t generation, int thread);

  // ticket = generation << 32 | next chunk. A helper takes a chunk by compare-and-swap, so a late one can never take a chunk of
  // the next job: that one has another generation.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<Thunk> thunk_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> chunks_{0};
  std::vector<std::thread> helpers_;
  struct Scratch {
    std::unique_ptr<char[]> memory;
    int64_t bytes = 0;
  };
  std::vector<Scratch> scratch_;
};

}  // namespace kvasir::cpu
