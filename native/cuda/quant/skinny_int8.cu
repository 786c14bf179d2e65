#include "cuda/quant/skinny.cuh"

namespace kvasir::cuda {

template void launchQuantSkinny<QuantKind::Int8>(const QuantArgs& args, DType dtype, cudaStream_t stream);

}  // namespace kvasir::cuda
