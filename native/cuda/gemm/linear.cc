#include "cuda/gemm/context.h"
#include "cuda/kernels.h"

namespace kvasir::cuda {

// Every kernel of this backend reads weights as they are stored. A packed one does not change any more, see CudaStream::mayReadEarly.
void packLinear(CudaStream& stream, const Tensor&) {
  stream.flush();
  stream.weightsChanged();
}

void linear(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  auto args = stream.gemm().gemv(out, x, weight, bias);
  if (!args) {
    stream.launch("linear", [&](cudaStream_t) { stream.gemm().linear(out, x, weight, bias); });
    return;
  }
  stream.flush();  // before it is asked what the kernel after that may do
  args->overlap = stream.mayReadEarly(weight);
  stream.hold(PendingGemv{*args, x.dtype, gemvWarps(args->n, args->k, elementSize(x.dtype))});
}

void run(CudaStream& stream, const PendingGemv& op) {
  stream.launch("linear", [&](cudaStream_t s) { launchGemv(op.args, op.dtype, op.warps, s); });
}

}  // namespace kvasir::cuda
