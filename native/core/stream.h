// An in-order queue of work on one device. Ops enqueue and return; nothing blocks the JavaScript thread.
#pragma once

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace kvasir {

class Stream {
 public:
  virtual ~Stream() = default;
  virtual Device device() const = 0;

  // Zeroed memory of the device, 64-byte aligned or better; throws ERR_KVASIR_OUT_OF_MEMORY. deallocate() is called when no queued work
  // uses the memory any more (see releaseLater).
  virtual void* allocate(int64_t bytes) = 0;
  virtual void deallocate(void* memory, int64_t bytes) noexcept = 0;
  // Drops `object` (a storage) after the work queued so far.
  virtual void releaseLater(std::shared_ptr<void> object) = 0;

  // Stores host bytes into a contiguous tensor, in stream order.
  virtual void write(const Tensor& to, std::vector<char> bytes) = 0;
  // Appends a contiguous tensor's bytes to `to`, in stream order; they are there when a later fence is done.
  virtual void read(std::shared_ptr<std::vector<char>> to, const Tensor& from) = 0;

  // Runs `task` on the host after everything enqueued before. The first exception a task throws is kept for the next fence.
  // `name` (a string literal) is what a profile counts it under.
  virtual void enqueue(const char* name, std::function<void()> task) = 0;

  // Calls `done` on a thread of the stream after all earlier work, with the first exception since the last fence, or null.
  virtual void fence(std::function<void(std::exception_ptr)> done) = 0;

  // Waits for the queue to drain, then ends the stream's threads. Called once, when the environment goes or the engine closes.
  virtual void shutdown() = 0;

  struct ProfileRow {
    int64_t calls = 0;
    double seconds = 0;
  };
  virtual void setProfiling(bool on) = 0;
  // Time per op name since profiling was switched on; call after a fence.
  virtual std::map<std::string, ProfileRow> profile() const = 0;
};

}  // namespace kvasir
