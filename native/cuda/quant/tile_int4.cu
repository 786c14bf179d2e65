#include "cuda/quant/tile.cuh"

namespace kvasir::cuda {

template void launchQuantTile<QuantKind::Int4>(const QuantArgs& args, DType dtype, Chain chain);

}  // namespace kvasir::cuda
