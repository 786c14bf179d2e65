#include "cuda/quant/tile.cuh"

namespace kvasir::cuda {

template void launchQuantTile<QuantKind::Int8>(const QuantArgs& args, DType dtype, Chain chain);

}  // namespace kvasir::cuda
