// The CPU backend's stream: one worker thread runs tasks in order; kernels fan out over the pool.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/stream.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

class CpuStream final : public Stream {
 public:
  explicit CpuStream(int threads);
  ~CpuStream() override;

  Device device() const override { return Device::Cpu; }
  void* allocate(int64_t bytes) override;
  void deallocate(void* memory, int64_t bytes) noexcept override;
  void releaseLater(std::shared_ptr<void> object) override;
  void write(const Tensor& to, std::vector<char> bytes) override;
  void read(std::shared_ptr<std::vector<char>> to, const Tensor& from) override;
  void enqueue(const char* name, std::function<void()> task) override;
  void fence(std::function<void(std::exception_ptr)> done) override;
  void shutdown() override;
  void setProfiling(bool on) override { profiling_.store(on); }
  std::map<std::string, ProfileRow> profile() const override;

  Pool& pool() { return pool_; }

 private:
  struct Task {
    const char* name;
    std::function<void()> run;
    std::function<void(std::exception_ptr)> fence;
  };
  void push(Task task);
  void loop();
  void execute(Task& task);

  Pool pool_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Task> queue_;
  std::atomic<bool> pending_{false};
  bool sleeping_ = false;
  bool stop_ = false;
  std::exception_ptr error_;  // worker thread only
  std::atomic<bool> profiling_{false};
  mutable std::mutex profileMutex_;
  std::map<std::string, ProfileRow> profile_;
  std::thread worker_;
};

}  // namespace kvasir::cpu
