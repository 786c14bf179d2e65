// Ranks of one process on one GPU: for tests, where a machine has one GPU, of everything that several would do.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/comm/comm.h"
#include "cuda/comm/local_kernels.h"
#include "cuda/stream.h"

namespace kvasir::cuda {

namespace {

struct FreeDevice {
  void operator()(char* memory) const { cudaFree(memory); }
};
struct FreeHost {
  void operator()(uint32_t* memory) const { cudaFreeHost(memory); }
};

// What the ranks of a group share; lives as long as any of them.
class LocalGroup {
 public:
  LocalGroup(int device, int size, int timeoutMs) : device_(device), size_(size), timeoutMs_(timeoutMs) {
    KVASIR_CUDA(cudaSetDevice(device));
    void* memory = nullptr;
    KVASIR_CUDA(cudaMalloc(&memory, static_cast<size_t>(size * kRankBytes)));
    memory_.reset(static_cast<char*>(memory));
    KVASIR_CUDA(cudaMemset(memory, 0, static_cast<size_t>(size * kRankBytes)));
    KVASIR_CUDA(cudaDeviceSynchronize());  // the streams of the ranks do not wait for the memset
    void* lost = nullptr;
    KVASIR_CUDA(cudaHostAlloc(&lost, kWords * sizeof(uint32_t), cudaHostAllocMapped | cudaHostAllocPortable));
    lost_.reset(static_cast<uint32_t*>(lost));
    std::fill_n(lost_.get(), kWords, 0u);
    local::loadKernels();
  }

  ~LocalGroup() { cudaDeviceSynchronize(); }  // kernels that are still queued use all this
  LocalGroup(const LocalGroup&) = delete;
  LocalGroup& operator=(const LocalGroup&) = delete;

  int device() const { return device_; }
  int size() const { return size_; }

  // Throws when the rank is there already.
  void join(int rank) {
    std::lock_guard lock(mutex_);
    if (std::exchange(joined_[rank], true)) fail(kLaunchError, "rank %d of a local group was created twice", rank);
    if (++count_ == size_) complete_.notify_all();
  }

  void awaitAll() {
    std::unique_lock lock(mutex_);
    const bool all = complete_.wait_for(lock, std::chrono::milliseconds(timeoutMs_), [this] { return count_ == size_ || isLost(); });
    if (isLost()) std::rethrow_exception(failure());
    if (!all) fail(kLaunchError, "%d of %d ranks of a local group are there after %d ms", count_, size_, timeoutMs_);
  }

  local::Group view(int rank) const {
    local::Group group{};
    for (int r = 0; r < size_; ++r) {
      group.data[r] = memory_.get() + r * kRankBytes;
      group.flags[r] = reinterpret_cast<uint32_t*>(group.data[r] + local::kDataBytes);
    }
    group.rounds = group.flags[rank] + local::kBlocks * local::kFlagStride;
    KVASIR_CUDA(cudaHostGetDevicePointer(reinterpret_cast<void**>(const_cast<uint32_t**>(&group.lost)), lost_.get(), 0));
    group.timeoutNs = static_cast<uint64_t>(timeoutMs_) * 1000000;
    group.rank = rank;
    group.size = size_;
    return group;
  }

  void abort() noexcept {
    std::atomic_ref(lost_.get()[0]).store(1);
    std::lock_guard lock(mutex_);  // not between the look and the sleep of awaitAll()
    complete_.notify_all();
  }
  bool isLost() const { return std::atomic_ref(lost_.get()[0]).load() != 0; }

  std::exception_ptr failure() const noexcept {
    if (!isLost()) return nullptr;
    for (int r = 0; r < size_; ++r)
      if (std::atomic_ref(lost_.get()[1 + r]).load() != 0)
        return std::make_exception_ptr(Error(kRankError, "rank " + std::to_string(r) + " waited " + std::to_string(timeoutMs_) + " ms for another rank of its group"));
    return std::make_exception_ptr(Error(kRankError, "the group of this rank was aborted"));
  }

 private:
  static constexpr int64_t kRankBytes = local::kDataBytes + local::kBlocks * local::kFlagStride * int64_t{sizeof(uint32_t)} + 4096;  // data, flags, rounds
  static constexpr size_t kWords = 1 + kMaxLocalRanks;
  static_assert(local::kBlocks * sizeof(uint32_t) <= 4096);

  const int device_, size_, timeoutMs_;
  std::unique_ptr<char, FreeDevice> memory_;
  std::unique_ptr<uint32_t, FreeHost> lost_;
  std::mutex mutex_;
  std::condition_variable complete_;
  bool joined_[kMaxLocalRanks] = {};
  int count_ = 0;
};

// Has a rank's fences hear of the loss of its group as long as the rank lives; the group may live longer.
class GroupCheck final : public FenceCheck {
 public:
  explicit GroupCheck(std::shared_ptr<const LocalGroup> group) : group_(std::move(group)) {}
  std::exception_ptr failure() noexcept override { return group_->failure(); }

 private:
  const std::shared_ptr<const LocalGroup> group_;
};

// Takes what a stream takes when it first needs it: its ring for uploads, buffers for results, some memory of its pool. Taking it while a
// kernel of another rank waits for this one would wait for that kernel.
void takeMemory(CudaStream& stream) {
  constexpr int64_t kPoolBytes = 64 << 20, kReadBytes = 1 << 20;
  constexpr int kReads = 4;
  void* memory = stream.allocate(kPoolBytes);
  Tensor t;
  t.data = static_cast<char*>(memory);
  t.dtype = DType::UInt8;
  t.rank = 1;
  t.dims[0] = kReadBytes;
  t.strides[0] = 1;
  stream.write(t, std::vector<char>(64));
  for (int i = 0; i < kReads; ++i) stream.read(std::make_shared<std::vector<char>>(), t);
  std::promise<void> done;
  stream.fence([&](std::exception_ptr error) { error ? done.set_exception(error) : done.set_value(); });
  done.get_future().get();
  stream.deallocate(memory, kPoolBytes);
}

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(CudaStream& stream, int rank, std::shared_ptr<LocalGroup> group)
      : Communicator(rank, group->size()), group_(std::move(group)), check_(std::make_shared<GroupCheck>(group_)), view_(group_->view(rank)) {
    takeMemory(stream);
    group_->join(rank);
    stream.checkAtFences(check_);
  }

  const std::shared_ptr<LocalGroup>& group() const { return group_; }

  Bytes address() override { return {}; }
  void connect(const std::vector<Bytes>&) override { group_->awaitAll(); }

  void allReduce(Stream& stream, const Tensor& x) override {
    run(stream, "allReduce", x, [&](cudaStream_t s) { local::allReduce(view_, s, x.data, x.numel(), x.dtype); });
  }
  void allGather(Stream& stream, const Tensor& out, const Tensor& x) override {
    run(stream, "allGather", x, [&](cudaStream_t s) { local::allGather(view_, s, out.data, x.data, x.numel() * elementSize(x.dtype)); });
  }
  void reduceScatter(Stream& stream, const Tensor& out, const Tensor& x) override {
    run(stream, "reduceScatter", x, [&](cudaStream_t s) { local::reduceScatter(view_, s, out.data, x.data, out.numel(), x.dtype); });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    run(stream, "broadcast", x, [&](cudaStream_t s) { local::broadcast(view_, s, x.data, x.numel() * elementSize(x.dtype), root); });
  }

  void abort() noexcept override { group_->abort(); }

 private:
  template <class F>
  void run(Stream& stream, const char* name, const Tensor& x, F&& body) {
    if (group_->isLost()) std::rethrow_exception(group_->failure());
    if (x.numel() > 0) of(stream).launch(name, body);
  }

  std::shared_ptr<LocalGroup> group_;
  std::shared_ptr<GroupCheck> check_;
  local::Group view_;
};

}  // namespace

std::unique_ptr<Communicator> localCommunicator(CudaStream& stream, int rank, int size, Communicator* first, int timeoutMs) {
  if (size < 1 || size > kMaxLocalRanks) fail(kLaunchError, "a local group on CUDA has 1 to %d ranks, got %d", kMaxLocalRanks, size);
  if (rank < 0 || rank >= size) fail(kLaunchError, "rank %d is not one of a group of %d", rank, size);
  if ((rank == 0) != (first == nullptr)) fail(kLaunchError, "rank 0 makes a local group, and the others join by its communicator");
  if (!first) return std::make_unique<LocalCommunicator>(stream, rank, std::make_shared<LocalGroup>(stream.ordinal(), size, timeoutMs));
  const auto* leader = dynamic_cast<const LocalCommunicator*>(first);
  if (!leader || leader->size() != size) fail(kLaunchError, "rank %d of %d cannot join a group of another kind or size", rank, size);
  if (leader->group()->device() != stream.ordinal())
    fail(kLaunchError, "the ranks of a local group share a device: rank 0 is on %d, rank %d on %d", leader->group()->device(), rank, stream.ordinal());
  return std::make_unique<LocalCommunicator>(stream, rank, leader->group());
}

}  // namespace kvasir::cuda
