// Pinned host memory between JavaScript and the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace kvasir::cuda {

// Queues a copy between pinned memory and the device. A small one is made by a kernel that reads or writes the host's memory itself: on
// the way to the copy engine and back a stream would wait twice.
void copyPinned(cudaStream_t stream, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind);

// A ring of pinned memory for small uploads. A slice is used again only after the copy out of it is done: the ring is cut into segments
// and each waits for its own event.
class UploadRing {
 public:
  UploadRing() = default;
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;
  // Copies `bytes` from `from` to the device in stream order; `from` may go when this returns.
  void upload(cudaStream_t stream, void* to, const char* from, int64_t bytes);

 private:
  static constexpr int kSegments = 4;
  static constexpr int64_t kSegmentBytes = 4 << 20;
  void allocate();
  char* memory_ = nullptr;
  cudaEvent_t done_[kSegments] = {};
  bool used_[kSegments] = {};
  int segment_ = 0;
  int64_t offset_ = 0;
};

// Pinned buffers for results, recycled. Thread safe: the waiting thread gives them back.
class ReadBuffers {
 public:
  ReadBuffers() = default;
  ~ReadBuffers();
  ReadBuffers(const ReadBuffers&) = delete;
  ReadBuffers& operator=(const ReadBuffers&) = delete;
  struct Buffer {
    char* data = nullptr;
    int64_t bytes = 0;
  };
  Buffer take(int64_t bytes);
  void give(Buffer buffer);

 private:
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

// A copy to the host that a fence will complete.
struct PendingRead {
  ReadBuffers::Buffer buffer;
  int64_t bytes;
  std::shared_ptr<std::vector<char>> to;
};

}  // namespace kvasir::cuda
