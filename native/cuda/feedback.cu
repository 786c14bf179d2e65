// Sampled tokens go back into the next step's inputs without leaving the device.
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

int blocksFor(int64_t count) { return static_cast<int>((count + kThreads - 1) / kThreads); }

// One thread per element.
__global__ void scatterKernel(int* out, int64_t size, const int* indices, const int* values, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count && indices[i] >= 0 && indices[i] < size) out[indices[i]] = values[i];
}

// One thread per element.
__global__ void selectKernel(int* out, const int* x, int64_t size, const int* indices, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count && indices[i] >= 0 && indices[i] < size) out[i] = x[indices[i]];
}

}  // namespace

void scatterElements(CudaStream& stream, const Tensor& out, const Tensor& indices, const Tensor& values) {
  const int64_t count = indices.dims[0];
  if (count == 0) return;
  stream.launch("scatterElements", [&](cudaStream_t s) {
    scatterKernel<<<blocksFor(count), kThreads, 0, s>>>(out.ptr<int>(), out.dims[0], indices.ptr<int>(), values.ptr<int>(), count);
  });
}

void selectElements(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& indices) {
  const int64_t count = indices.dims[0];
  if (count == 0) return;
  stream.launch("selectElements", [&](cudaStream_t s) {
    selectKernel<<<blocksFor(count), kThreads, 0, s>>>(out.ptr<int>(), x.ptr<int>(), x.dims[0], indices.ptr<int>(), count);
  });
}

}  // namespace kvasir::cuda
