#include "cuda/pending.h"

#include <utility>

#include "cuda/stream.h"

namespace kvasir::cuda {

void CudaStream::hold(Pending op) {
  flush();
  pending_ = std::move(op);
}

void CudaStream::runPending() {
  const Pending op = std::exchange(pending_, {});  // run() comes back here through launch()
  std::visit(
      [this](const auto& each) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(each)>, std::monostate>) run(*this, each);
      },
      op);
}

}  // namespace kvasir::cuda
