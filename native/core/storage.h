// One allocation of device memory. Tensors (rows of the table) are views into it; queued work keeps it alive.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/tensor.h"

namespace kvasir {

class Stream;

// Live allocations of an environment: what close() must bring back to zero.
struct StorageCounters {
  std::atomic<int64_t> count{0};
  std::atomic<int64_t> bytes{0};
};

class Storage {
 public:
  // Zeroed memory of the stream's device. Throws ERR_KVASIR_OUT_OF_MEMORY.
  Storage(std::shared_ptr<Stream> stream, int64_t bytes, std::shared_ptr<StorageCounters> counters);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Stream& stream() const { return *stream_; }
  const std::shared_ptr<Stream>& sharedStream() const { return stream_; }

 private:
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<StorageCounters> counters_;
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace kvasir
