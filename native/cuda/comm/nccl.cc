// Collectives by NCCL, one GPU per rank.
#include <cstring>
#include <utility>

#include "core/error.h"
#include "cuda/comm/comm.h"
#include "cuda/comm/nccl_link.h"
#include "cuda/stream.h"

namespace kvasir::cuda {

namespace {

int typeOf(DType dtype) {
  switch (dtype) {
    case DType::Float32: return nccl::kFloat32;
    case DType::Float16: return nccl::kFloat16;
    case DType::BFloat16: return nccl::kBFloat16;
    default: fail(kTensorError, "%s cannot be summed over ranks", dtypeName(dtype));
  }
}

size_t bytesOf(const Tensor& x) { return static_cast<size_t>(x.numel() * elementSize(x.dtype)); }

// A stream and some memory for the first collectives, which must not wait for the rank's own stream: that belongs to another thread.
class WarmUp {
 public:
  WarmUp(NcclLink& link, int rank, int size) : link_(link), rank_(static_cast<size_t>(rank)), size_(static_cast<size_t>(size)) {
    KVASIR_CUDA(cudaSetDevice(link.device()));
    KVASIR_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    KVASIR_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    KVASIR_CUDA(cudaMalloc(&memory_, kFloats * sizeof(float)));
    KVASIR_CUDA(cudaMemsetAsync(memory_, 0, kFloats * sizeof(float), stream_));
  }
  ~WarmUp() {
    cudaFree(memory_);
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }
  WarmUp(const WarmUp&) = delete;
  WarmUp& operator=(const WarmUp&) = delete;

  // The library makes some of its connections when they are first needed. Small and large messages go different ways.
  void run() {
    const NcclLibrary& lib = link_.library();
    for (const size_t count : {size_t{64}, kFloats})
      link_.call("ncclAllReduce", [&](nccl::Comm c) { return lib.allReduce(memory_, memory_, count, nccl::kFloat32, nccl::kSum, c, stream_); });
    const size_t piece = kFloats / size_;
    const float* mine = static_cast<float*>(memory_) + rank_ * piece;  // in place
    link_.call("ncclAllGather", [&](nccl::Comm c) { return lib.allGather(mine, memory_, piece, nccl::kFloat32, c, stream_); });
    KVASIR_CUDA(cudaEventRecord(event_, stream_));
    const auto end = std::chrono::steady_clock::now() + link_.timeout();
    cudaError_t state = cudaSuccess;
    while ((state = cudaEventQuery(event_)) == cudaErrorNotReady) {
      link_.throwFailure();
      if (std::chrono::steady_clock::now() > end) link_.fail("the first collectives do not end within " + std::to_string(link_.timeout().count()) + " ms");
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    check(state, "cudaEventQuery");
  }

 private:
  static constexpr size_t kFloats = 1 << 20;
  NcclLink& link_;
  const size_t rank_, size_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  void* memory_ = nullptr;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(CudaStream& stream, int rank, int size, int timeoutMs, std::shared_ptr<const NcclLibrary> library)
      : Communicator(rank, size), link_(std::make_shared<NcclLink>(std::move(library), stream.ordinal(), rank, size, timeoutMs)) {
    stream.checkAtFences(link_);
  }
  ~NcclCommunicator() override { link_->close(); }

  // Rank 0's is the name of the group, where the others find it.
  Bytes address() override {
    if (rank() != 0) return {};
    KVASIR_CUDA(cudaSetDevice(link_->device()));
    nccl::UniqueId id{};
    const nccl::Result result = link_->library().getUniqueId(&id);
    if (result != nccl::kSuccess) fail(kLaunchError, "ncclGetUniqueId: %s", link_->library().describe(result).c_str());
    return Bytes(id.bytes, id.bytes + sizeof id.bytes);
  }

  void connect(const std::vector<Bytes>& addresses) override {
    nccl::UniqueId id{};
    if (addresses.empty() || addresses[0].size() != sizeof id.bytes) fail(kLaunchError, "NCCL expects rank 0's address of %zu bytes first", sizeof id.bytes);
    std::memcpy(id.bytes, addresses[0].data(), sizeof id.bytes);
    link_->open(id);
    try {
      WarmUp(*link_, rank(), size()).run();
    } catch (const Error& e) {
      throw Error(kLaunchError, e.what());
    }
  }

  // Partial sums of half precision are rounded to it on their way from rank to rank; each is made once and copied, so all ranks get the same.
  void allReduce(Stream& stream, const Tensor& x) override {
    run(stream, "allReduce", x, [&](const NcclLibrary& lib, nccl::Comm c, cudaStream_t s) {
      return lib.allReduce(x.data, x.data, static_cast<size_t>(x.numel()), typeOf(x.dtype), nccl::kSum, c, s);
    });
  }
  void allGather(Stream& stream, const Tensor& out, const Tensor& x) override {
    run(stream, "allGather", x, [&](const NcclLibrary& lib, nccl::Comm c, cudaStream_t s) { return lib.allGather(x.data, out.data, bytesOf(x), nccl::kInt8, c, s); });
  }
  void reduceScatter(Stream& stream, const Tensor& out, const Tensor& x) override {
    run(stream, "reduceScatter", x, [&](const NcclLibrary& lib, nccl::Comm c, cudaStream_t s) {
      return lib.reduceScatter(x.data, out.data, static_cast<size_t>(out.numel()), typeOf(x.dtype), nccl::kSum, c, s);
    });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    run(stream, "broadcast", x, [&](const NcclLibrary& lib, nccl::Comm c, cudaStream_t s) { return lib.broadcast(x.data, x.data, bytesOf(x), nccl::kInt8, root, c, s); });
  }

  void abort() noexcept override { link_->fail("the communicator was aborted"); }

 private:
  template <class F>
  void run(Stream& stream, const char* name, const Tensor& x, F&& body) {
    link_->throwFailure();
    if (x.numel() == 0) return;
    of(stream).launch(name, [&](cudaStream_t s) { link_->call(name, [&](nccl::Comm c) { return body(link_->library(), c, s); }); });
  }

  std::shared_ptr<NcclLink> link_;
};

}  // namespace

std::unique_ptr<Communicator> ncclCommunicator(CudaStream& stream, int rank, int size, int timeoutMs) {
  if (size < 1 || rank < 0 || rank >= size) fail(kLaunchError, "rank %d is not one of a group of %d", rank, size);
  std::string report;
  auto library = NcclLibrary::load(report);
  if (!library) fail(kUnsupportedError, "%s", report.substr(0, report.find_last_not_of('\n') + 1).c_str());
  return std::make_unique<NcclCommunicator>(stream, rank, size, timeoutMs, std::move(library));
}

}  // namespace kvasir::cuda
