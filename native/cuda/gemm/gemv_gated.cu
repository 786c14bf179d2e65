// A merged gate and up projection of one or two tokens together with its activation.
#include "cuda/gemm/gemv.cuh"

namespace kvasir::cuda {

namespace {

template <class T, int kRows>
void launchRows(const GemmArgs& a, const GatedOutput& gated, int warps, cudaStream_t stream) {
  if (warps == 1) return gemv::launchSplit<T, kRows, 1, true>(a, gated, stream);
  if (warps == 2) return gemv::launchSplit<T, kRows, 2, true>(a, gated, stream);
  gemv::launchSplit<T, kRows, 4, true>(a, gated, stream);
}

}  // namespace

void launchGatedGemv(const GemmArgs& args, const GatedOutput& gated, DType dtype, int warps, cudaStream_t stream) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    if (args.m == 1)
      launchRows<T, 1>(args, gated, warps, stream);
    else
      launchRows<T, 2>(args, gated, warps, stream);
  });
}

}  // namespace kvasir::cuda
