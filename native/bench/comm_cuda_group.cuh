// The ranks that comm_cuda_bench.cu drives: all of a local group in this process, or one of NCCL's.
#pragma once

#include <cstdio>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "cuda/comm/comm.h"
#include "cuda/stream.h"

namespace kvasir::cuda::bench {

class Buffer {
 public:
  Buffer(CudaStream& stream, int64_t bytes) : stream_(stream), bytes_(bytes), data_(static_cast<char*>(stream.allocate(bytes))) {}
  ~Buffer() { stream_.deallocate(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  CudaStream& stream_;
  int64_t bytes_;
  char* data_;
};

inline Tensor vectorOf(void* data, DType dtype, int64_t n) {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.rank = 1;
  t.dims[0] = n;
  t.strides[0] = 1;
  return t;
}

struct Rank {
  std::unique_ptr<CudaStream> stream;
  std::unique_ptr<Communicator> comm;

  // Waits for the stream; throws what its fence says.
  void settle() const {
    std::promise<void> done;
    stream->fence([&](std::exception_ptr error) { error ? done.set_exception(error) : done.set_value(); });
    done.get_future().get();
  }
};

struct Group {
  std::string backend;
  std::vector<Rank> ranks;  // of this process
  int size = 0;

  const Rank& first() const { return ranks.front(); }
  bool speaks() const { return first().comm->rank() == 0; }
  // All ranks of this process one after the other, as one JavaScript thread does.
  void each(const std::function<void(const Rank&)>& body) const {
    for (const Rank& r : ranks) body(r);
  }
  void settle() const {
    each([](const Rank& r) { r.settle(); });
  }
};

inline Group localGroup(int size, int timeoutMs) {
  Group group{"local", {}, size};
  for (int r = 0; r < size; ++r) {
    auto stream = std::make_unique<CudaStream>(0);
    auto comm = localCommunicator(*stream, r, size, r == 0 ? nullptr : group.ranks[0].comm.get(), timeoutMs);
    group.ranks.push_back({std::move(stream), std::move(comm)});
  }
  group.each([](const Rank& r) { r.comm->connect({}); });
  return group;
}

// exchange: rank 0's address in, the same address out on every rank.
inline Group ncclGroup(int rank, int size, const std::function<Communicator::Bytes(Communicator::Bytes)>& exchange) {
  Group group{"nccl", {}, size};
  auto stream = std::make_unique<CudaStream>(size == 1 ? 0 : rank);
  auto comm = ncclCommunicator(*stream, rank, size, 30000);
  std::vector<Communicator::Bytes> addresses(static_cast<size_t>(size));
  addresses[0] = exchange(comm->address());
  comm->connect(addresses);
  group.ranks.push_back({std::move(stream), std::move(comm)});
  return group;
}

// Checks; each counts and prints what is wrong. Small sizes, odd ones, several rounds of the local group's buffers; in graphs, and mixed.
int checkCollectives(const Group& group);
int checkGraphs(const Group& group);
// A rank that waits for another one in vain hears of it.
int checkFailures();
int checkAbort(const Group& group);

}  // namespace kvasir::cuda::bench
