// Collectives among the ranks of a tensor-parallel group. Every rank calls the same ones in the same order; each is queued on the stream of
// its rank and ordered with the other work there. Backends: gloo (CPU ranks), nccl (one GPU per rank), local (ranks of one process).
#pragma once

#include <cstdint>
#include <vector>

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir {

class Communicator {
 public:
  using Bytes = std::vector<char>;

  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // What the other ranks must know to reach this one; may be empty. The caller brings all addresses to all ranks.
  virtual Bytes address() = 0;
  // addresses: by rank. Called once, on a thread that may block; throws ERR_KVASIR_LAUNCH when the ranks do not come together in time.
  virtual void connect(const std::vector<Bytes>& addresses) = 0;

  // The tensors are contiguous, of one dtype, on `stream`'s device; shapes were checked (ops/comm.h).
  // x becomes the sum over the ranks, the same bits on every rank. float32, float16, bfloat16; accumulates in float32.
  virtual void allReduce(Stream& stream, const Tensor& x) = 0;
  // out: `size` pieces as large as x, by rank. Any dtype.
  virtual void allGather(Stream& stream, const Tensor& out, const Tensor& x) = 0;
  // x: `size` pieces as large as out; out becomes the sum over the ranks of their piece number `rank`. dtypes of allReduce.
  virtual void reduceScatter(Stream& stream, const Tensor& out, const Tensor& x) = 0;
  // x becomes rank `root`'s. Any dtype.
  virtual void broadcast(Stream& stream, const Tensor& x, int root) = 0;

  // From any thread, any number of times: collectives that run or are queued, and later ones, fail with ERR_KVASIR_RANK instead of waiting
  // for a rank that is gone. Does not block.
  virtual void abort() noexcept = 0;

 private:
  const int rank_;
  const int size_;
};

}  // namespace kvasir
