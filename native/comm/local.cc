#include "comm/local.h"

#include <cstring>
#include <string>

#include "comm/local_group.h"
#include "core/error.h"
#include "cpu/comm.h"
#include "cpu/stream.h"

namespace kvasir::comm {

namespace {

// A rank's work in collectives. Queued tasks hold it, so that they outlive the communicator.
struct LocalRank {
  std::shared_ptr<LocalGroup> group;
  int rank;

  // Each rank sums its share of the elements and stores the sum for all.
  void allReduce(cpu::Pool& pool, const LocalCall& call) const {
    const LocalGroup::Meeting meeting(*group, rank, call);
    const int size = group->size();
    const int64_t begin = call.elements * rank / size, end = call.elements * (rank + 1) / size, element = elementSize(call.dtype);
    std::vector<const void*> parts;
    for (int r = 0; r < size; ++r) parts.push_back(meeting.call(r).out + begin * element);
    char* sum = call.out + begin * element;
    cpu::sumParts(pool, call.dtype, sum, parts.data(), size, end - begin);
    for (int r = 0; r < size; ++r)
      if (r != rank) std::memcpy(meeting.call(r).out + begin * element, sum, static_cast<size_t>((end - begin) * element));
  }

  void allGather(const LocalCall& call) const {
    const LocalGroup::Meeting meeting(*group, rank, call);
    const auto bytes = static_cast<size_t>(call.elements * elementSize(call.dtype));
    for (int r = 0; r < group->size(); ++r) std::memcpy(call.out + static_cast<size_t>(r) * bytes, meeting.call(r).in, bytes);
  }

  void reduceScatter(cpu::Pool& pool, const LocalCall& call) const {
    const LocalGroup::Meeting meeting(*group, rank, call);
    const int64_t offset = rank * call.elements * elementSize(call.dtype);
    std::vector<const void*> parts;
    for (int r = 0; r < group->size(); ++r) parts.push_back(meeting.call(r).in + offset);
    cpu::sumParts(pool, call.dtype, call.out, parts.data(), group->size(), call.elements);
  }

  void broadcast(const LocalCall& call) const {
    const LocalGroup::Meeting meeting(*group, rank, call);
    if (rank != call.root) std::memcpy(call.out, meeting.call(call.root).out, static_cast<size_t>(call.elements * elementSize(call.dtype)));
  }
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(int rank, int size, std::shared_ptr<LocalGroup> group) : Communicator(rank, size), self_{std::move(group), rank} {}
  ~LocalCommunicator() override { self_.group->fail("rank " + std::to_string(rank()) + " closed its communicator"); }

  const std::shared_ptr<LocalGroup>& group() const { return self_.group; }

  Bytes address() override { return {}; }
  void connect(const std::vector<Bytes>&) override { self_.group->join(); }

  void allReduce(Stream& stream, const Tensor& x) override {
    stream.enqueue("allReduce", [self = self_, &pool = poolOf(stream), call = describe("allReduce", x, x, x.numel())] { self.allReduce(pool, call); });
  }
  void allGather(Stream& stream, const Tensor& out, const Tensor& x) override {
    stream.enqueue("allGather", [self = self_, call = describe("allGather", out, x, x.numel())] { self.allGather(call); });
  }
  void reduceScatter(Stream& stream, const Tensor& out, const Tensor& x) override {
    const LocalCall call = describe("reduceScatter", out, x, out.numel());
    stream.enqueue("reduceScatter", [self = self_, &pool = poolOf(stream), call] { self.reduceScatter(pool, call); });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    stream.enqueue("broadcast", [self = self_, call = describe("broadcast", x, x, x.numel(), root)] { self.broadcast(call); });
  }

  void abort() noexcept override { self_.group->fail("the group was aborted"); }

 private:
  static cpu::Pool& poolOf(Stream& stream) { return static_cast<cpu::CpuStream&>(stream).pool(); }
  static LocalCall describe(const char* op, const Tensor& out, const Tensor& in, int64_t elements, int root = 0) {
    return {op, out.dtype, elements, root, out.ptr<char>(), in.ptr<char>()};
  }

  const LocalRank self_;
};

}  // namespace

std::unique_ptr<Communicator> localCommunicator(int rank, int size, int timeoutMs, Communicator* first) {
  if (rank == 0) return std::make_unique<LocalCommunicator>(0, size, std::make_shared<LocalGroup>(size, std::chrono::milliseconds(timeoutMs)));
  auto* zero = dynamic_cast<LocalCommunicator*>(first);
  if (!zero || zero->rank() != 0 || zero->size() != size)
    fail(kLaunchError, "rank %d of a local group of %d needs the communicator of rank 0 of the same group", rank, size);
  return std::make_unique<LocalCommunicator>(rank, size, zero->group());
}

}  // namespace kvasir::comm
