#include "cuda/access.cuh"
#include "cuda/kernels.h"
#include "cuda/moe/grouped.h"

namespace kvasir::cuda {

void moeLinear(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks) {
  if (out.numel() == 0 || blocks.dims[0] == 0) return;
  const int64_t size = elementSize(x.dtype), outSize = elementSize(out.dtype), blockRows = blocks.dims[1] - 1;
  const bool pairStores = accessBytes({addressOf(out), out.strides[0] * outSize}) >= 2 * outSize;
  const GroupedArgs args{x.data,
                         weights.data,
                         out.data,
                         blocks.ptr<int32_t>(),
                         out.dims[1],
                         x.dims[1],
                         x.strides[0],
                         out.strides[0],
                         weights.dims[1] * weights.dims[2],
                         static_cast<int>(blocks.dims[0]),
                         static_cast<int>(blockRows),
                         static_cast<int>(weights.dims[0]),
                         static_cast<int>(out.dims[0]),
                         static_cast<int>(out.dims[0] / x.dims[0]),
                         out.dtype == DType::Float32,
                         pairStores};
  const bool aligned = accessBytes({addressOf(x), addressOf(weights), x.strides[0] * size, x.dims[1] * size}) == 16;
  const bool tiled = blockRows == 16 || blockRows == 64 || blockRows == 128;
  const auto kernel = x.dtype != DType::Float32 && aligned && tiled ? launchGroupedMma : launchGroupedFma;
  stream.launch("moeLinear", [&](cudaStream_t s) { kernel(args, x.dtype, {s, stream.overlaps()}); });
}

}  // namespace kvasir::cuda
