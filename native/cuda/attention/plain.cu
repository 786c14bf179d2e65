#include "cuda/attention/plain.cuh"

namespace kvasir::cuda::attention {

void plain(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    launchPlain<T, T>(a, prefillOnly, s);
  });
}

}  // namespace kvasir::cuda::attention
