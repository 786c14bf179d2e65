#include "ops/comm.h"

#include "core/shape.h"

namespace kvasir::ops {

namespace {

// large: size times as many elements as small.
void checkPieces(const char* op, int size, const char* largeName, const Tensor& large, const char* smallName, const Tensor& small) {
  Shapes s(op);
  s.contiguous(largeName, large).contiguous(smallName, small).sameDtype(largeName, large, smallName, small);
  if (large.numel() != size * small.numel())
    fail(kTensorError, "%s: %s is %s, expected %d times the elements of %s, which is %s", op, largeName, describe(large).c_str(), size, smallName,
         describe(small).c_str());
}

}  // namespace

void allReduce(Stream& stream, Communicator& communicator, const Tensor& x) {
  Shapes s("allReduce");
  s.floating("x", x).contiguous("x", x);
  if (communicator.size() > 1 && x.numel() > 0) communicator.allReduce(stream, x);
}

void allGather(Stream& stream, Communicator& communicator, const Tensor& out, const Tensor& x) {
  checkPieces("allGather", communicator.size(), "out", out, "x", x);
  if (x.numel() > 0) communicator.allGather(stream, out, x);
}

void reduceScatter(Stream& stream, Communicator& communicator, const Tensor& out, const Tensor& x) {
  Shapes("reduceScatter").floating("x", x);
  checkPieces("reduceScatter", communicator.size(), "x", x, "out", out);
  if (out.numel() > 0) communicator.reduceScatter(stream, out, x);
}

void broadcast(Stream& stream, Communicator& communicator, const Tensor& x, int64_t root) {
  Shapes("broadcast").contiguous("x", x);
  if (root < 0 || root >= communicator.size())
    fail(kTensorError, "broadcast: root is %lld, expected a rank below %d", static_cast<long long>(root), communicator.size());
  if (communicator.size() > 1 && x.numel() > 0) communicator.broadcast(stream, x, static_cast<int>(root));
}

}  // namespace kvasir::ops
