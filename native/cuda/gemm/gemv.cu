#include "cuda/gemm/gemv.cuh"

namespace kvasir::cuda {

namespace {

template <class T, int kRows>
void launchRows(const GemmArgs& a, int warps, cudaStream_t stream) {
  if (warps == 1) return gemv::launchSplit<T, kRows, 1, false>(a, {}, stream);
  if (warps == 2) return gemv::launchSplit<T, kRows, 2, false>(a, {}, stream);
  if (warps == 4) return gemv::launchSplit<T, kRows, 4, false>(a, {}, stream);
  gemv::launchSplit<T, kRows, 8, false>(a, {}, stream);
}

}  // namespace

void launchGemv(const GemmArgs& args, DType dtype, int warps, cudaStream_t stream) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    if (args.m == 1)
      launchRows<T, 1>(args, warps, stream);
    else
      launchRows<T, 2>(args, warps, stream);
  });
}

}  // namespace kvasir::cuda
