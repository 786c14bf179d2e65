#include "cpu/parallel.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvasir::cpu {

namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

constexpr int kSpins = 2000;  // about 50 us on current cores
constexpr uint32_t kClosed = 0xffffffffu;

}  // namespace

Pool::Pool(int threads) : scratch_(static_cast<size_t>(threads < 1 ? 1 : threads)) {
  helpers_.reserve(static_cast<size_t>(threads < 1 ? 0 : threads - 1));
  ticket_.store(kClosed);
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { helperLoop(i); });
}

Pool::~Pool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (auto& t : helpers_) t.join();
}

void* Pool::scratch(int thread, int64_t bytes) {
  Scratch& s = scratch_[static_cast<size_t>(thread)];
  if (s.bytes < bytes) {
    s.memory.reset(new char[static_cast<size_t>(bytes) + 64]);
    s.bytes = bytes;
  }
  const auto address = reinterpret_cast<uintptr_t>(s.memory.get());
  return reinterpret_cast<void*>((address + 63) / 64 * 64);
}

void Pool::runJob(int64_t chunks, Thunk thunk, void* context) {
  const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(generation << 32 | kClosed, std::memory_order_release);  // nobody takes a chunk while the job is being described
  thunk_.store(thunk, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  chunks_.store(chunks, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store((generation + 1) << 32, std::memory_order_release);
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) epoch_.notify_all();
  work(generation + 1, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != chunks; ++spins)
    if (spins < kSpins) pause();
    else std::this_thread::yield();  // a helper lost its core in the middle of a chunk
}

void Pool::work(uint64_t generation, int thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  for (;;) {
    if (ticket >> 32 != generation) return;
    const int64_t chunk = static_cast<int64_t>(ticket & 0xffffffffu);
    // These belong to `generation` if the exchange below succeeds: they only change while the ticket is closed.
    const Thunk thunk = thunk_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    const int64_t chunks = chunks_.load(std::memory_order_relaxed);
    if (chunk >= chunks) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    thunk(context, chunk, thread);
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void Pool::helperLoop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t epoch = epoch_.load(std::memory_order_acquire);
    for (int spins = 0; epoch == seen && spins < kSpins; ++spins) {
      pause();
      epoch = epoch_.load(std::memory_order_acquire);
    }
    if (epoch == seen) {
      sleepers_.fetch_add(1);
      epoch_.wait(seen);
      sleepers_.fetch_sub(1);
      continue;
    }
    seen = epoch;
    if (stop_.load()) return;
    const uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if ((ticket & 0xffffffffu) != kClosed) work(ticket >> 32, thread);
  }
}

}  // namespace kvasir::cpu
