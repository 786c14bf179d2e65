// The CUDA backend's stream: one non-blocking cudaStream_t, a stream-ordered memory pool, and a thread that waits for events so that
// JavaScript never does.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "core/stream.h"
#include "cuda/check.h"
#include "cuda/loader.h"
#include "cuda/staging.h"

namespace kvasir::cuda {

class GemmContext;

// Devices that can be used, and why none can (no driver, no device, a driver older than the runtime).
struct DeviceReport {
  int count = 0;
  std::string problem;
};
DeviceReport devices();

struct DeviceProperties {
  std::string name;
  std::string computeCapability;  // "9.0"
  int64_t totalBytes;
  int multiprocessors;
};
DeviceProperties describe(int device);

class CudaStream final : public Stream {
 public:
  explicit CudaStream(int device);
  ~CudaStream() override;

  Device device() const override { return Device::Cuda; }
  void* allocate(int64_t bytes) override;
  void deallocate(void* memory, int64_t bytes) noexcept override;
  void releaseLater(std::shared_ptr<void> object) override { object.reset(); }  // deallocate() is ordered by the stream itself
  void write(const Tensor& to, std::vector<char> bytes) override;
  void read(std::shared_ptr<std::vector<char>> to, const Tensor& from) override;
  void enqueue(const char* name, std::function<void()> task) override;
  void fence(std::function<void(std::exception_ptr)> done) override;
  void shutdown() override;
  void setProfiling(bool on) override;
  std::map<std::string, ProfileRow> profile() const override;

  cudaStream_t handle() const { return stream_; }
  int ordinal() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  // Bytes free and in all on the device.
  std::pair<int64_t, int64_t> memory() const;
  // What linear layers keep between calls.
  GemmContext& gemm() { return *gemm_; }
  // Queues reading a file's tensor; later fences wait for it.
  void load(LoadJob job);

  // Scratch of at least `bytes` for kernels that run after each other on this stream (GEMM workspace, split attention). Its address
  // only changes when it grows, which must happen before a graph is captured.
  void* scratch(int64_t bytes);
  // At least `count` counters that are zero and that every kernel leaves zero. Its address changes as scratch()'s does.
  int32_t* counters(int64_t count);

  // Work queued between the two becomes a graph instead of running; its id is for launchGraph.
  void beginCapture();
  int endCapture();
  void launchGraph(int id);
  void destroyGraph(int id);

  // Around each op: checks the launch, and times it when profiling.
  template <class F>
  void launch(const char* name, F&& body) {
    Timer timer(*this, name);
    body(stream_);
    check(cudaGetLastError(), name);
  }

 private:
  struct Fence {
    cudaEvent_t event;
    std::exception_ptr error;
    std::vector<PendingRead> reads;
    std::function<void(std::exception_ptr)> done;
  };
  struct Timing {
    const char* name;
    cudaEvent_t begin, end;
  };
  void* grow(void*& memory, int64_t& size, int64_t bytes);
  class Timer {
   public:
    Timer(CudaStream& stream, const char* name);
    ~Timer();

   private:
    CudaStream& stream_;
    Timing timing_{};
    bool on_;
  };
  void waitLoop();
  void finish(Fence& fence);
  void pushFence(Fence fence);
  void setDevice() const;

  int device_;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  UploadRing uploads_;
  ReadBuffers readBuffers_;
  std::vector<PendingRead> pendingReads_;
  std::exception_ptr error_;
  void* scratch_ = nullptr;
  int64_t scratchBytes_ = 0;
  void* counters_ = nullptr;
  int64_t counterBytes_ = 0;
  std::vector<cudaGraphExec_t> graphs_;
  bool profiling_ = false;
  mutable std::vector<Timing> timings_;
  mutable std::map<std::string, ProfileRow> profile_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<GemmContext> gemm_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Fence> fences_;
  bool stop_ = false;
  std::thread waiter_;
};

// The stream of an op that was dispatched to CUDA.
inline CudaStream& of(Stream& stream) { return static_cast<CudaStream&>(stream); }

}  // namespace kvasir::cuda
