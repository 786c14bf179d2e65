// The CUDA backend's stream: one non-blocking cudaStream_t, a stream-ordered memory pool, and a thread that waits for events so that
// JavaScript never does.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/stream.h"
#include "cuda/check.h"
#include "cuda/loader.h"
#include "cuda/pending.h"
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
// Whether kernels may start before their predecessor ends (dependent_launch.cuh). The device must be the current one.
bool supportsOverlap(int device);

// What a captured graph is made of. The driver launches a straight line of kernels, each after the one before it, fastest.
struct GraphInfo {
  int64_t nodes = 0, kernels = 0, copies = 0, memsets = 0, others = 0;
  int64_t edges = 0, early = 0;  // early: edges that let a kernel start before its predecessor ends
  bool straightLine() const { return nodes > 0 && edges == nodes - 1; }
};

// What can go wrong without any call failing: ranks that are gone while a collective waits for them.
class FenceCheck {
 public:
  virtual ~FenceCheck() = default;
  // Null while all is well. Called on the stream's own thread.
  virtual std::exception_ptr failure() noexcept = 0;
};

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

  // Every later fence hears of this failure as long as `check` lives.
  void checkAtFences(std::weak_ptr<FenceCheck> check);

  cudaStream_t handle() {
    flush();
    return stream_;
  }
  int ordinal() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  // Bytes free and in all on the device.
  std::pair<int64_t, int64_t> memory() const;
  // What linear layers keep between calls.
  GemmContext& gemm() { return *gemm_; }
  // Queues reading a file's tensor; later fences wait for it.
  void load(LoadJob job);
  // Waits until what was queued by load() is read; an error is heard at the next fence.
  void settleLoads() noexcept;

  // Scratch of at least `bytes` for kernels that run after each other on this stream (GEMM workspace, split attention). Its address
  // only changes when it grows, which is an error while a graph is captured. Memory that captured graphs know stays as long as they do.
  void* scratch(int64_t bytes);
  // At least `count` counters that are zero and that every kernel leaves zero. Its address changes as scratch()'s does.
  int32_t* counters(int64_t count);

  // Work queued between the two becomes a graph instead of running; its id is for launchGraph.
  void beginCapture();
  int endCapture();
  // Ends a capture of which something failed, and forgets what was captured.
  void discardCapture() noexcept;
  const GraphInfo& graphInfo(int id);
  void launchGraph(int id);
  void destroyGraph(int id);

  // Keeps an op back until the next one, see pending.h.
  void hold(Pending op);
  // The op that is kept back, if it is a T and `joins` says that the op at hand continues it. The caller then does the work of both.
  template <class T, class F>
  std::optional<T> take(F&& joins) {
    const T* op = std::get_if<T>(&pending_);
    if (!op || !joins(*op)) return std::nullopt;
    const T taken = *op;
    pending_ = {};
    return taken;
  }
  // Launches the op that is kept back. Everything that adds to the stream or frees memory calls this first.
  void flush() {
    if (pending_.index() != 0) runPending();
  }

  // Whether kernels may be launched early, see dependent_launch.cuh.
  bool overlaps() const { return overlaps_; }
  // Never launches early from now on, or does again where the device can: for measurements.
  void setOverlaps(bool on);
  // True when the next kernel may read `weight` even before its predecessor ends: a packed weight, complete before an earlier kernel that
  // was launched after everything. Where false is answered, the kernel must be launched in the usual way, and is that kernel for later ones.
  bool mayReadEarly(const Tensor& weight);
  // A packed weight was or will be stored.
  void weightsChanged() { weightsSettled_ = false; }

  // Around each op: checks the launch, and times it when profiling.
  template <class F>
  void launch(const char* name, F&& body) {
    if (loading_) settleLoads();
    flush();
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
  struct Graph {
    cudaGraphExec_t executable;  // null: destroyed
    GraphInfo info;
  };
  void runPending();
  Graph& graph(int id);
  void checkNotCapturing(const char* what) const;
  void freeRetired() noexcept;
  cudaEvent_t takeEvent();
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
  std::exception_ptr failureOfChecks();
  void setDevice() const;

  int device_;
  int multiprocessors_ = 0;
  bool overlaps_ = false;
  bool weightsSettled_ = false;
  Pending pending_;
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
  std::vector<Graph> graphs_;
  int liveGraphs_ = 0;
  bool capturing_ = false;
  std::vector<void*> retired_;  // outgrown scratch that graphs still use
  bool profiling_ = false;
  mutable std::vector<Timing> timings_;
  mutable std::map<std::string, ProfileRow> profile_;
  std::unique_ptr<Loader> loader_;
  bool loading_ = false;  // something was queued for it since settleLoads()
  std::unique_ptr<GemmContext> gemm_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Fence> fences_;
  std::vector<cudaEvent_t> freeEvents_;
  std::vector<std::weak_ptr<FenceCheck>> checks_;
  bool stop_ = false;
  std::thread waiter_;
};

// The stream of an op that was dispatched to CUDA.
inline CudaStream& of(Stream& stream) { return static_cast<CudaStream&>(stream); }

}  // namespace kvasir::cuda
