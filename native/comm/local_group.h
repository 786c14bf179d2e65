// The state that the ranks of a local group share, and how they meet in a collective.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace kvasir::comm {

// What a rank brings to a collective. All but the pointers must agree.
struct LocalCall {
  const char* op = "";
  DType dtype = DType::Float32;
  int64_t elements = 0;
  int root = 0;
  char* out = nullptr;
  const char* in = nullptr;
};

class LocalGroup {
 public:
  LocalGroup(int size, std::chrono::milliseconds timeout) : size_(size), timeout_(timeout), calls_(static_cast<size_t>(size)) {}

  int size() const { return size_; }

  // Returns when all ranks have joined.
  void join();
  // From now on nobody waits: whoever does, and whoever comes, fails with this reason.
  void fail(const std::string& reason) noexcept;

  // A collective of one rank. The constructor returns when every rank has come; then each may read and write the memory of all until its
  // destructor, which returns when every rank is done. Only the constructor waits for ranks that might never come, so that nobody leaves
  // with his memory while another still uses it.
  class Meeting {
   public:
    Meeting(LocalGroup& group, int rank, const LocalCall& call);
    ~Meeting();
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;
    const LocalCall& call(int rank) const { return group_.calls_[static_cast<size_t>(rank)]; }

   private:
    LocalGroup& group_;
  };

 private:
  void arrive(int rank, const LocalCall& call);
  void leave();
  void begin();
  void failLocked(const std::string& reason);
  [[noreturn]] void throwFailure(const char* code) const;
  // Waits a little for done() without giving up the core, where there are cores enough.
  template <class F>
  void spin(F&& done) const;

  const int size_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<LocalCall> calls_;
  int joined_ = 0;
  int arrived_ = 0;
  std::atomic<int> working_{0};
  std::atomic<uint64_t> generation_{0};  // collectives begun
  std::atomic<bool> failed_{false};
  std::string reason_;
};

}  // namespace kvasir::comm
