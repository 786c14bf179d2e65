#include "cuda/stream.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "cuda/check.h"
#include "cuda/gemm/context.h"

namespace kvasir::cuda {

void raise(cudaError_t error, const char* call) {
  cudaGetLastError();  // a failed allocation must not be found again by the next launch check
  if (error == cudaErrorMemoryAllocation) {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(kMemoryError, "CUDA out of memory: %zu of %zu MiB are free (%s)", free >> 20, total >> 20, call);
  }
  fail(kDeviceError, "CUDA error %s: %s (%s)", cudaGetErrorName(error), cudaGetErrorString(error), call);
}

DeviceReport devices() {
  DeviceReport report;
  const cudaError_t error = cudaGetDeviceCount(&report.count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    report.count = 0;
    report.problem = cudaGetErrorString(error);
  } else if (report.count == 0) {
    report.problem = "no CUDA device";
  }
  return report;
}

DeviceProperties describe(int device) {
  cudaDeviceProp p{};
  KVASIR_CUDA(cudaGetDeviceProperties(&p, device));
  return {p.name, std::to_string(p.major) + "." + std::to_string(p.minor), static_cast<int64_t>(p.totalGlobalMem), p.multiProcessorCount};
}

CudaStream::CudaStream(int device) : device_(device) {
  const DeviceReport report = devices();
  if (device >= report.count) fail(kUnsupportedError, "CUDA device %d cannot be used: %s", device, report.count ? "there are fewer" : report.problem.c_str());
  setDevice();
  KVASIR_CUDA(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  overlaps_ = supportsOverlap(device);
  KVASIR_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, device};
  KVASIR_CUDA(cudaMemPoolCreate(&pool_, &properties));
  uint64_t keep = UINT64_MAX;  // small results of every step: never give memory back in between
  KVASIR_CUDA(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
  gemm_ = std::make_unique<GemmContext>(*this);
  waiter_ = std::thread([this] { waitLoop(); });
}

CudaStream::~CudaStream() { shutdown(); }

void CudaStream::setDevice() const { KVASIR_CUDA(cudaSetDevice(device_)); }

std::pair<int64_t, int64_t> CudaStream::memory() const {
  setDevice();
  size_t free = 0, total = 0;
  KVASIR_CUDA(cudaMemGetInfo(&free, &total));
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

void* CudaStream::allocate(int64_t bytes) {
  setDevice();
  void* memory = nullptr;
  const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 16));
  const cudaError_t error = cudaMallocFromPoolAsync(&memory, size, pool_, stream_);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(kMemoryError, "%zu MiB of memory are needed at once, and %zu of the CUDA device's %zu MiB are free", (size >> 20) + 1, free >> 20, total >> 20);
  }
  check(error, "cudaMallocFromPoolAsync");  // after a device fault every call fails: that is no lack of memory
  KVASIR_CUDA(cudaMemsetAsync(memory, 0, size, stream_));
  return memory;
}

void CudaStream::deallocate(void* memory, int64_t) noexcept {
  if (!stream_) return;
  settleLoads();  // the memory may be what is being read into
  try {
    flush();
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
  cudaFreeAsync(memory, stream_);
}

void CudaStream::write(const Tensor& to, std::vector<char> bytes) {
  checkNotCapturing("memory cannot be written");
  settleLoads();
  flush();
  setDevice();
  if (to.layout == Layout::Packed) weightsChanged();
  uploads_.upload(stream_, to.data, bytes.data(), static_cast<int64_t>(bytes.size()));
}

void CudaStream::read(std::shared_ptr<std::vector<char>> to, const Tensor& from) {
  checkNotCapturing("memory cannot be read");
  settleLoads();
  flush();
  setDevice();
  const int64_t bytes = from.numel() * elementSize(from.dtype);
  const auto buffer = readBuffers_.take(bytes);
  copyPinned(stream_, buffer.data, from.data, bytes, cudaMemcpyDeviceToHost);
  pendingReads_.push_back({buffer, bytes, std::move(to)});
}

void CudaStream::enqueue(const char*, std::function<void()> task) {
  try {
    flush();
    task();
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
}

// Reading happens on a thread and a stream of its own. Whatever is queued after it may use what was read, so it waits here: between two
// reads nothing is queued, and a model that only reads waits once.
void CudaStream::settleLoads() noexcept {
  if (!std::exchange(loading_, false)) return;
  try {
    loader_->drain();
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
}

void CudaStream::load(LoadJob job) {
  flush();
  setDevice();
  weightsChanged();
  if (!loader_) loader_ = std::make_unique<Loader>(device_);
  loader_->push(job, stream_);
  loading_ = true;
}

void CudaStream::fence(std::function<void(std::exception_ptr)> done) {
  // After a device fault every call of the runtime fails; whoever waits must hear of it all the same.
  cudaEvent_t event = nullptr;
  try {
    setDevice();
    flush();
    event = takeEvent();
    KVASIR_CUDA(cudaEventRecord(event, stream_));
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
  pushFence({event, std::exchange(error_, nullptr), std::exchange(pendingReads_, {}), std::move(done)});
}

// Making an event costs several times as much as recording one.
cudaEvent_t CudaStream::takeEvent() {
  {
    std::lock_guard lock(mutex_);
    if (!freeEvents_.empty()) {
      const cudaEvent_t event = freeEvents_.back();
      freeEvents_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  KVASIR_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void CudaStream::pushFence(Fence fence) {
  {
    std::lock_guard lock(mutex_);
    fences_.push_back(std::move(fence));
  }
  wake_.notify_one();
}

void CudaStream::checkAtFences(std::weak_ptr<FenceCheck> check) {
  std::lock_guard lock(mutex_);
  std::erase_if(checks_, [](const auto& c) { return c.expired(); });
  checks_.push_back(std::move(check));
}

std::exception_ptr CudaStream::failureOfChecks() {
  std::vector<std::weak_ptr<FenceCheck>> checks;
  {
    std::lock_guard lock(mutex_);
    checks = checks_;
  }
  for (const auto& check : checks)
    if (const auto alive = check.lock())
      if (const std::exception_ptr error = alive->failure()) return error;
  return nullptr;
}

void CudaStream::waitLoop() {
  cudaSetDevice(device_);
  for (;;) {
    Fence fence;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return !fences_.empty() || stop_; });
      if (fences_.empty()) return;
      fence = std::move(fences_.front());
      fences_.pop_front();
    }
    finish(fence);
  }
}

// Polls for a moment, because a decode step takes about a millisecond, then more and more rarely.
void CudaStream::finish(Fence& fence) {
  const auto start = std::chrono::steady_clock::now();
  cudaError_t state = cudaSuccess;
  while (fence.event && (state = cudaEventQuery(fence.event)) == cudaErrorNotReady)
    if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(20)) std::this_thread::sleep_for(std::chrono::microseconds(100));
    else std::this_thread::sleep_for(std::chrono::microseconds(5));
  if (state != cudaSuccess && !fence.error)
    fence.error = std::make_exception_ptr(Error(kDeviceError, std::string("CUDA error ") + cudaGetErrorName(state) + ": " + cudaGetErrorString(state)));
  if (!fence.error) fence.error = failureOfChecks();
  if (fence.event) {
    std::lock_guard lock(mutex_);
    freeEvents_.push_back(fence.event);
  }
  try {
    if (loader_) loader_->drain();
  } catch (...) {
    if (!fence.error) fence.error = std::current_exception();
  }
  for (PendingRead& r : fence.reads) {
    r.to->insert(r.to->end(), r.buffer.data, r.buffer.data + r.bytes);
    readBuffers_.give(r.buffer);
  }
  fence.done(fence.error);
}

void CudaStream::shutdown() {
  if (!stream_) return;
  pending_ = {};  // nobody can read its result any more
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (waiter_.joinable()) waiter_.join();
  loader_.reset();
  gemm_.reset();
  for (const Graph& graph : graphs_)
    if (graph.executable) cudaGraphExecDestroy(graph.executable);
  graphs_.clear();
  freeRetired();
  for (cudaEvent_t event : freeEvents_) cudaEventDestroy(event);
  freeEvents_.clear();
  for (const Timing& t : timings_) {
    cudaEventDestroy(t.begin);
    cudaEventDestroy(t.end);
  }
  if (scratch_) cudaFreeAsync(scratch_, stream_);
  if (counters_) cudaFreeAsync(counters_, stream_);
  cudaStreamSynchronize(stream_);
  cudaMemPoolDestroy(pool_);
  cudaStreamDestroy(stream_);
  stream_ = nullptr;
}

// A graph holds the address that was current when it was captured. Its kernels may go on using outgrown memory: what they leave there is
// read by themselves alone, and on one stream they never run beside kernels that use the new memory. So it is kept until no graph is left.
void* CudaStream::grow(void*& memory, int64_t& size, int64_t bytes) {
  if (bytes <= size) return memory;
  if (capturing_)
    fail(kNativeError, "a step that is being captured needs %lld bytes of scratch memory, %lld are there: it must run once before it is captured",
         static_cast<long long>(bytes), static_cast<long long>(size));
  if (memory && liveGraphs_ > 0) retired_.push_back(memory);
  else if (memory) KVASIR_CUDA(cudaFreeAsync(memory, stream_));
  memory = nullptr;
  size = 0;
  memory = allocate(bytes);
  size = bytes;
  return memory;
}

void CudaStream::freeRetired() noexcept {
  for (void* memory : retired_) cudaFreeAsync(memory, stream_);
  retired_.clear();
}

void* CudaStream::scratch(int64_t bytes) { return grow(scratch_, scratchBytes_, bytes); }

int32_t* CudaStream::counters(int64_t count) {
  return static_cast<int32_t*>(grow(counters_, counterBytes_, count * static_cast<int64_t>(sizeof(int32_t))));
}

void CudaStream::setOverlaps(bool on) {
  flush();
  setDevice();
  overlaps_ = on && supportsOverlap(device_);
}

bool CudaStream::mayReadEarly(const Tensor& weight) {
  return overlaps_ && weight.layout == Layout::Packed && std::exchange(weightsSettled_, true);
}

void CudaStream::setProfiling(bool on) {
  flush();
  profiling_ = on;
  if (on) profile_.clear();
}

CudaStream::Timer::Timer(CudaStream& stream, const char* name) : stream_(stream), on_(stream.profiling_) {
  stream_.setDevice();
  if (!on_) return;
  timing_.name = name;
  KVASIR_CUDA(cudaEventCreate(&timing_.begin));
  KVASIR_CUDA(cudaEventCreate(&timing_.end));
  KVASIR_CUDA(cudaEventRecord(timing_.begin, stream_.stream_));
}

CudaStream::Timer::~Timer() {
  if (!on_) return;
  cudaEventRecord(timing_.end, stream_.stream_);
  stream_.timings_.push_back(timing_);
}

std::map<std::string, Stream::ProfileRow> CudaStream::profile() const {
  for (const Timing& t : timings_) {
    float milliseconds = 0;
    cudaEventSynchronize(t.end);
    cudaEventElapsedTime(&milliseconds, t.begin, t.end);
    ProfileRow& row = profile_[t.name];
    row.calls += 1;
    row.seconds += milliseconds / 1e3;
    cudaEventDestroy(t.begin);
    cudaEventDestroy(t.end);
  }
  timings_.clear();
  return profile_;
}

}  // namespace kvasir::cuda
