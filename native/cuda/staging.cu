#include <algorithm>
#include <cstring>

#include "cuda/check.h"
#include "cuda/staging.h"

namespace kvasir::cuda {

UploadRing::~UploadRing() {
  for (cudaEvent_t event : done_)
    if (event) cudaEventDestroy(event);
  if (memory_) cudaFreeHost(memory_);
}

void UploadRing::allocate() {
  KVASIR_CUDA(cudaMallocHost(reinterpret_cast<void**>(&memory_), static_cast<size_t>(kSegments * kSegmentBytes)));
  for (cudaEvent_t& event : done_) KVASIR_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

void UploadRing::upload(cudaStream_t stream, void* to, const char* from, int64_t bytes) {
  if (!memory_) allocate();
  char* dest = static_cast<char*>(to);
  while (bytes > 0) {
    if (offset_ == kSegmentBytes) {
      KVASIR_CUDA(cudaEventRecord(done_[segment_], stream));
      used_[segment_] = true;
      segment_ = (segment_ + 1) % kSegments;
      if (used_[segment_]) KVASIR_CUDA(cudaEventSynchronize(done_[segment_]));
      offset_ = 0;
    }
    const int64_t n = std::min(bytes, kSegmentBytes - offset_);
    char* slice = memory_ + segment_ * kSegmentBytes + offset_;
    std::memcpy(slice, from, static_cast<size_t>(n));
    KVASIR_CUDA(cudaMemcpyAsync(dest, slice, static_cast<size_t>(n), cudaMemcpyHostToDevice, stream));
    offset_ = std::min(kSegmentBytes, (offset_ + n + 63) / 64 * 64);
    dest += n;
    from += n;
    bytes -= n;
  }
}

ReadBuffers::~ReadBuffers() {
  for (const Buffer& b : free_) cudaFreeHost(b.data);
}

ReadBuffers::Buffer ReadBuffers::take(int64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    const auto fits = std::find_if(free_.begin(), free_.end(), [&](const Buffer& b) { return b.bytes >= bytes; });
    if (fits != free_.end()) {
      const Buffer buffer = *fits;
      free_.erase(fits);
      return buffer;
    }
  }
  Buffer buffer;
  buffer.bytes = std::max<int64_t>(4096, bytes);
  KVASIR_CUDA(cudaMallocHost(reinterpret_cast<void**>(&buffer.data), static_cast<size_t>(buffer.bytes)));
  return buffer;
}

void ReadBuffers::give(Buffer buffer) {
  std::lock_guard lock(mutex_);
  free_.push_back(buffer);
}

}  // namespace kvasir::cuda
