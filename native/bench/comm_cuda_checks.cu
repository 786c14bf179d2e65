#include <chrono>
#include <cstring>
#include <thread>

#include "comm_cuda_group.cuh"
#include "cuda/access.cuh"
#include "cuda/convert.cuh"

namespace kvasir::cuda::bench {

namespace {

constexpr int64_t kGuard = 256;  // bytes behind each tensor that nobody may touch

// Multiples of 1/8 that stay exact in every type however they are added up.
float valueOf(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 61 - 30) / 8; }

float sumOf(int size, int64_t i) {
  float sum = 0;
  for (int r = 0; r < size; ++r) sum += valueOf(r, i);
  return sum;
}

std::vector<char> encode(DType dtype, int64_t n, const std::function<float(int64_t)>& value) {
  std::vector<char> bytes(static_cast<size_t>(n * elementSize(dtype)));
  for (int64_t i = 0; i < n; ++i) {
    const float v = value(i);
    switch (dtype) {
      case DType::Float32: std::memcpy(bytes.data() + i * 4, &v, 4); break;
      case DType::Float16: {
        const __half h = __float2half_rn(v);
        std::memcpy(bytes.data() + i * 2, &h, 2);
        break;
      }
      case DType::BFloat16: {
        const __nv_bfloat16 h = __float2bfloat16_rn(v);
        std::memcpy(bytes.data() + i * 2, &h, 2);
        break;
      }
      default: bytes[static_cast<size_t>(i)] = static_cast<char>(static_cast<int>(v * 8));
    }
  }
  return bytes;
}

// Adds to *count how many bytes of a and b differ; one thread per byte.
__global__ void countDifferences(const unsigned char* a, const unsigned char* b, int64_t n, int* count) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < n && a[i] != b[i]) atomicAdd(count, 1);
}

// What one rank needs for one case: x and out between guards, `shift` bytes beside 16-byte alignment, and what they must become.
struct Bench {
  Bench(const Rank& rank, DType type, int64_t n, int size, int64_t shift)
      : rank(rank), dtype(type), count(n), pieces(size), shift(shift), x(*rank.stream, whole()), out(*rank.stream, whole()), start(*rank.stream, whole()),
        expected(*rank.stream, whole()), errors(*rank.stream, 16) {}

  int64_t whole() const { return count * pieces * elementSize(dtype) + shift + kGuard; }
  Tensor tensor(const Buffer& b, int64_t n) const { return vectorOf(b.data() + shift, dtype, n); }
  // Everything to NaN, guards too.
  void poison(const Buffer& b) const { KVASIR_CUDA(cudaMemsetAsync(b.data(), 0xFF, static_cast<size_t>(whole()), rank.stream->handle())); }
  void upload(const Buffer& b, std::vector<char> bytes) const {
    poison(b);
    const auto n = static_cast<int64_t>(bytes.size());
    if (n > 0) rank.stream->write(vectorOf(b.data() + shift, DType::UInt8, n), std::move(bytes));
  }
  void compare(const Buffer& b) const {
    rank.stream->launch("compare", [&](cudaStream_t s) {
      countDifferences<<<static_cast<unsigned>(ceilDiv(whole(), 256)), 256, 0, s>>>(reinterpret_cast<unsigned char*>(b.data()),
                                                                                  reinterpret_cast<unsigned char*>(expected.data()), whole(), reinterpret_cast<int*>(errors.data()));
    });
  }
  void restore(const Buffer& b) const {
    KVASIR_CUDA(cudaMemcpyAsync(b.data(), start.data(), static_cast<size_t>(whole()), cudaMemcpyDeviceToDevice, rank.stream->handle()));
  }
  int differences() const {
    rank.settle();
    int n = 0;
    KVASIR_CUDA(cudaMemcpy(&n, errors.data(), sizeof n, cudaMemcpyDeviceToHost));
    return n;
  }

  const Rank& rank;
  const DType dtype;
  const int64_t count, pieces, shift;
  Buffer x, out, start, expected, errors;
};

enum class Op { AllReduce, AllGather, ReduceScatter, Broadcast };
constexpr const char* kOps[] = {"allReduce", "allGather", "reduceScatter", "broadcast"};

// Puts the start and the expected end of `op` on the device. x has pieces * count elements for reduceScatter, count for the others.
void prepare(const Bench& b, Op op, int size) {
  const int rank = b.rank.comm->rank(), root = size - 1;
  const int64_t n = b.count;
  const int64_t inputs = op == Op::ReduceScatter ? n * size : n;
  b.upload(b.start, encode(b.dtype, inputs, [&](int64_t i) { return valueOf(rank, i); }));
  std::function<float(int64_t)> want = [&](int64_t i) { return sumOf(size, i); };
  if (op == Op::AllGather) want = [&](int64_t i) { return valueOf(static_cast<int>(i / n), i % n); };
  if (op == Op::ReduceScatter) want = [&](int64_t i) { return sumOf(size, rank * n + i); };
  if (op == Op::Broadcast) want = [&](int64_t i) { return valueOf(root, i); };
  b.upload(b.expected, encode(b.dtype, op == Op::AllGather ? n * size : n, want));
  b.restore(b.x);
  b.poison(b.out);
}

// Queues the op, and after it the comparison.
void queue(const Bench& b, Op op, int size) {
  CudaStream& stream = *b.rank.stream;
  Communicator& comm = *b.rank.comm;
  const int64_t n = b.count;
  switch (op) {
    case Op::AllReduce: comm.allReduce(stream, b.tensor(b.x, n)); break;
    case Op::AllGather: comm.allGather(stream, b.tensor(b.out, n * size), b.tensor(b.x, n)); break;
    case Op::ReduceScatter: comm.reduceScatter(stream, b.tensor(b.out, n), b.tensor(b.x, n * size)); break;
    case Op::Broadcast: comm.broadcast(stream, b.tensor(b.x, n), size - 1); break;
  }
  b.compare(op == Op::AllGather || op == Op::ReduceScatter ? b.out : b.x);
}

std::vector<std::unique_ptr<Bench>> benches(const Group& group, Op op, DType dtype, int64_t n, int64_t shift) {
  std::vector<std::unique_ptr<Bench>> result;
  group.each([&](const Rank& r) {
    result.push_back(std::make_unique<Bench>(r, dtype, n, group.size, shift));
    prepare(*result.back(), op, group.size);
  });
  group.settle();
  return result;
}

int report(const Group& group, const char* how, Op op, const Bench& b) {
  const int wrong = b.differences();
  if (wrong > 0)
    std::printf("FAILED %s %s %s %s: rank %d of %d, %lld elements, shifted %lld: %d bytes differ\n", group.backend.c_str(), how, kOps[static_cast<int>(op)], dtypeName(b.dtype),
                b.rank.comm->rank(), group.size, static_cast<long long>(b.count), static_cast<long long>(b.shift), wrong);
  return wrong > 0;
}

bool reduces(Op op) { return op == Op::AllReduce || op == Op::ReduceScatter; }

// True if body throws ERR_KVASIR_RANK.
bool failsByRank(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return std::strcmp(e.code(), kRankError) == 0;
  }
  return false;
}

}  // namespace

int checkCollectives(const Group& group) {
  int failed = 0;
  for (const DType dtype : {DType::Float32, DType::Float16, DType::BFloat16, DType::UInt8})
    for (const Op op : {Op::AllReduce, Op::AllGather, Op::ReduceScatter, Op::Broadcast})
      for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{4096}, int64_t{4099}, int64_t{250001}, int64_t{4 << 20}})
        for (const int64_t shift : {int64_t{0}, elementSize(dtype)}) {
          if ((dtype == DType::UInt8 && reduces(op)) || (shift > 0 && n > 300000)) continue;
          const auto all = benches(group, op, dtype, n, shift);
          for (const auto& b : all) queue(*b, op, group.size);
          for (const auto& b : all) failed += report(group, "eager", op, *b);
        }
  return failed;
}

int checkGraphs(const Group& group) {
  constexpr int kReplays = 200;
  int failed = 0;
  for (const Op op : {Op::AllReduce, Op::AllGather, Op::ReduceScatter, Op::Broadcast})
    for (const int64_t n : {int64_t{4099}, int64_t{700001}}) {
      const auto all = benches(group, op, DType::BFloat16, n, 0);
      std::vector<int> graphs;
      for (const auto& b : all) queue(*b, op, group.size);
      group.settle();
      for (const auto& b : all) {
        b->rank.stream->beginCapture();
        b->restore(b->x);
        b->poison(b->out);
        queue(*b, op, group.size);
        graphs.push_back(b->rank.stream->endCapture());
      }
      for (int i = 0; i < kReplays; ++i)
        for (size_t r = 0; r < all.size(); ++r) {
          all[r]->rank.stream->launchGraph(graphs[r]);
          if (i % 10 != 3) continue;
          all[r]->restore(all[r]->x);
          queue(*all[r], op, group.size);
        }
      for (const auto& b : all) failed += report(group, "graph", op, *b);
      for (size_t r = 0; r < all.size(); ++r) all[r]->rank.stream->destroyGraph(graphs[r]);
    }
  return failed;
}

int checkAbort(const Group& group) {
  const Rank& r = group.first();
  const Buffer x(*r.stream, 4096);
  // Of several ranks the first one waits for the others, which do not come.
  if (r.comm->rank() == 0 && group.size > 1) r.comm->allReduce(*r.stream, vectorOf(x.data(), DType::Float32, 1024));
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    r.comm->abort();
  });
  other.join();
  int failed = 0;
  if (!failsByRank([&] { r.settle(); })) failed += std::printf("FAILED %s: a fence does not hear of abort()\n", group.backend.c_str()) > 0;
  if (!failsByRank([&] { r.comm->allReduce(*r.stream, vectorOf(x.data(), DType::Float32, 1024)); }))
    failed += std::printf("FAILED %s: a collective after abort()\n", group.backend.c_str()) > 0;
  return failed;
}

int checkFailures() {
  int failed = 0;
  {
    const Group group = localGroup(2, 300);
    const Buffer x(*group.first().stream, 4096);
    group.first().comm->allReduce(*group.first().stream, vectorOf(x.data(), DType::Float32, 1024));
    if (!failsByRank([&] { group.first().settle(); })) failed += std::printf("FAILED local: a rank that waits in vain\n") > 0;
    if (!failsByRank([&] { group.ranks[1].comm->allReduce(*group.ranks[1].stream, vectorOf(x.data(), DType::Float32, 1024)); }))
      failed += std::printf("FAILED local: the other rank of a lost group\n") > 0;
  }
  return failed + checkAbort(localGroup(2, kLocalTimeoutMs));
}

}  // namespace kvasir::cuda::bench
