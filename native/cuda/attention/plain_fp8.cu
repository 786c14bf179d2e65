#include "cuda/attention/plain.cuh"

namespace kvasir::cuda::attention {

void plainFp8(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    launchPlain<T, Fp8>(a, prefillOnly, s);
  });
}

}  // namespace kvasir::cuda::attention
