// Functions of one number with a parameter: multiplication by a constant, and the soft cap of logits.
#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

struct Scale {
  float factor;
  __device__ __forceinline__ float operator()(float x) const { return x * factor; }
};

struct SoftCap {
  float cap;
  __device__ __forceinline__ float operator()(float x) const { return cap * tanhf(x / cap); }
};

// Block (token, part): one pack of N elements per thread. out, x [numTokens, size]; out may be x.
template <class T, class Map, int N>
__global__ void __launch_bounds__(kThreads) mapKernel(T* out, int64_t outStride, const T* x, int64_t xStride, int size, Map map) {
  letNextStart();
  waitForPrevious();
  const int pack = blockIdx.y * kThreads + threadIdx.x;
  if (pack >= size / N) return;
  Pack<T, N> values = reinterpret_cast<const Pack<T, N>*>(x + blockIdx.x * xStride)[pack];
#pragma unroll
  for (int j = 0; j < N; ++j) values.v[j] = convert<T>(map(toFloatDevice(values.v[j])));
  reinterpret_cast<Pack<T, N>*>(out + blockIdx.x * outStride)[pack] = values;
}

template <class Map>
void apply(CudaStream& stream, const char* name, Map map, const Tensor& out, const Tensor& x) {
  if (out.numel() == 0) return;
  const int64_t bytes = elementSize(out.dtype);
  const bool vector = accessBytes({addressOf(out), addressOf(x), out.dims[1] * bytes, out.strides[0] * bytes, x.strides[0] * bytes}) == 16;
  stream.launch(name, [&](cudaStream_t s) {
    dispatchFloat(out.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? mapKernel<T, Map, N> : mapKernel<T, Map, 1>;
      const dim3 grid(static_cast<unsigned>(out.dims[0]), static_cast<unsigned>(ceilDiv(out.dims[1] / (vector ? N : 1), kThreads)));
      launchChained({s, stream.overlaps()}, kernel, grid, kThreads, out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0],
                    static_cast<int>(out.dims[1]), map);
    });
  });
}

}  // namespace

void scale(CudaStream& stream, const Tensor& out, const Tensor& x, double factor) {
  apply(stream, "scale", Scale{static_cast<float>(factor)}, out, x);
}
void softCap(CudaStream& stream, const Tensor& out, const Tensor& x, double cap) {
  apply(stream, "softCap", SoftCap{static_cast<float>(cap)}, out, x);
}

}  // namespace kvasir::cuda
