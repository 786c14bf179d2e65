#include <algorithm>
#include <cstring>

#include "cuda/check.h"
#include "cuda/staging.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kKernelCopyBytes = 32 << 10;

// One thread per word of 4 bytes.
__global__ void __launch_bounds__(kThreads) copyWordsKernel(uint32_t* to, const uint32_t* from, int64_t words) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < words) to[i] = from[i];
}

bool ofWords(const void* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(uint32_t) == 0; }

}  // namespace

void copyPinned(cudaStream_t stream, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  if (bytes > kKernelCopyBytes || bytes % static_cast<int64_t>(sizeof(uint32_t)) != 0 || !ofWords(to) || !ofWords(from)) {
    KVASIR_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream));
    return;
  }
  const int64_t words = bytes / static_cast<int64_t>(sizeof(uint32_t));
  copyWordsKernel<<<static_cast<unsigned>((words + kThreads - 1) / kThreads), kThreads, 0, stream>>>(static_cast<uint32_t*>(to), static_cast<const uint32_t*>(from), words);
  KVASIR_CUDA(cudaGetLastError());
}

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
    copyPinned(stream, dest, slice, n, cudaMemcpyHostToDevice);
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
