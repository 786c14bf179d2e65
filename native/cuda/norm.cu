#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/convert.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

// One size for every number of tokens: a row's sum is taken in the same order in any batch.
constexpr int kThreads = 256;

// One block per row, 16-byte vectors when rows are aligned to them, else single elements. The row is read twice; the second read
// comes from L1/L2.
//   out, x, residual: rows of `hidden` elements at their strides; residual (may be null) is updated to x + residual.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads) rmsNormKernel(T* out, int64_t outStride, const T* x, int64_t xStride, T* residual, int64_t residualStride,
                                                          const T* weight, int hidden, float eps, bool gemma) {
  constexpr int kWidth = kVector ? Vec<T>::kSize : 1;
  struct alignas(kVector ? 16 : alignof(T)) Pack {
    T v[kWidth];
  };
  const int64_t row = blockIdx.x;
  const Pack* in = reinterpret_cast<const Pack*>(x + row * xStride);
  Pack* res = residual ? reinterpret_cast<Pack*>(residual + row * residualStride) : nullptr;
  const int packs = hidden / kWidth;
  float squares = 0;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    Pack p = in[i];
    if (res) {
      const Pack r = res[i];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) p.v[j] = convert<T>(toFloatDevice(p.v[j]) + toFloatDevice(r.v[j]));
      res[i] = p;
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) squares += toFloatDevice(p.v[j]) * toFloatDevice(p.v[j]);
  }
  const float scale = rsqrtf(blockSum<kThreads>(squares) / static_cast<float>(hidden) + eps);
  const Pack* from = res ? res : in;
  const Pack* w = reinterpret_cast<const Pack*>(weight);
  Pack* to = reinterpret_cast<Pack*>(out + row * outStride);
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    const Pack p = from[i], factor = w[i];
    Pack result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float normed = toFloatDevice(p.v[j]) * scale;
      result.v[j] = gemma ? convert<T>(normed * (1.0f + toFloatDevice(factor.v[j])))
                          : convert<T>(toFloatDevice(convert<T>(normed)) * toFloatDevice(factor.v[j]));
    }
    to[i] = result;
  }
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

void launch(CudaStream& stream, const char* name, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, double eps, bool gemma) {
  if (x.dims[0] == 0) return;
  stream.launch(name, [&](cudaStream_t s) {
    dispatchFloat(x.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int width = Vec<T>::kSize;
      T* res = residual ? residual->ptr<T>() : nullptr;
      const int64_t resStride = residual ? residual->strides[0] : 0;
      const bool vector = x.dims[1] % width == 0 && x.strides[0] % width == 0 && out.strides[0] % width == 0 && resStride % width == 0 &&
                          aligned(x.data) && aligned(out.data) && aligned(weight.data) && aligned(res);
      const auto kernel = vector ? rmsNormKernel<T, true> : rmsNormKernel<T, false>;
      kernel<<<static_cast<unsigned>(x.dims[0]), kThreads, 0, s>>>(out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0], res, resStride, weight.ptr<T>(),
                                                                   static_cast<int>(x.dims[1]), static_cast<float>(eps), gemma);
    });
  });
}

}  // namespace

void rmsNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma) {
  launch(stream, "rmsNorm", out, x, std::nullopt, weight, eps, gemma);
}

void addRmsNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma) {
  launch(stream, "addRmsNorm", out, x, residual, weight, eps, gemma);
}

}  // namespace kvasir::cuda
