// Reads checkpoint tensors from files into device memory: threads read into pinned buffers while earlier pieces are copied.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/tensor.h"

namespace kvasir::cuda {

// out = rows x width elements of a file (converted to out's dtype), see ops::loadFromFile. Both sides have dense rows.
struct LoadJob {
  Tensor out;  // [rows, width], row stride in strides[0]
  int fd;
  int64_t byteOffset;
  DType dtype;
  int64_t fileRowStride;  // in elements
};

class Loader {
 public:
  explicit Loader(int device);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // `after`: the stream on which out's memory was made.
  void push(LoadJob job, cudaStream_t after);
  // Waits until all jobs are on the device; throws what the first failed one threw.
  void drain();

 private:
  struct Buffer {
    char* host = nullptr;
    char* device = nullptr;  // raw bytes on the device while they are converted
    cudaEvent_t done = nullptr;
  };
  void loop();
  void run(const LoadJob& job);
  void piece(const LoadJob& job, int64_t row, int64_t rows, int64_t column, int64_t columns);

  int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  Buffer buffers_[2];
  int next_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<LoadJob> jobs_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace kvasir::cuda
