#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"
#include "cuda/norm.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

// One size for every number of tokens: a row's sum is taken in the same order in any batch.
constexpr int kThreads = 256;

// x + residual, rounded.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> added(const Pack<T, N>& x, const Pack<T, N>& residual) {
  Pack<T, N> sum;
#pragma unroll
  for (int j = 0; j < N; ++j) sum.v[j] = convert<T>(toFloatDevice(x.v[j]) + toFloatDevice(residual.v[j]));
  return sum;
}

// One block per row, 16-byte vectors when rows are aligned to them, else single elements; thread i has packs i, i + kThreads, .. of the row.
// Up to kHeld packs per thread stay in registers; with kHeld 0 rows of any length are read twice, the second time from L1/L2.
//   out, x, residual: rows of `hidden` elements at their strides; residual (may be null) is updated to x + residual.
template <class T, bool kVector, int kHeld>
__global__ void __launch_bounds__(kThreads) rmsNormKernel(T* out, int64_t outStride, const T* x, int64_t xStride, T* residual, int64_t residualStride,
                                                          const T* weight, int hidden, float eps, bool gemma) {
  constexpr int kWidth = kVector ? Vec<T>::kSize : 1;
  using P = Pack<T, kWidth>;
  letNextStart();
  const int64_t row = blockIdx.x;
  const P* in = reinterpret_cast<const P*>(x + row * xStride);
  P* res = residual ? reinterpret_cast<P*>(residual + row * residualStride) : nullptr;
  const P* w = reinterpret_cast<const P*>(weight);
  P* to = reinterpret_cast<P*>(out + row * outStride);
  const int packs = hidden / kWidth;
  if (row == 0)  // the weight was last read a whole forward pass ago
    for (int i = threadIdx.x; i < packs; i += kThreads) prefetchToL2(w + i);
  waitForPrevious();
  P held[kHeld ? kHeld : 1], factors[kHeld ? kHeld : 1];
  float squares = 0;
#pragma unroll
  for (int h = 0; h < (kHeld ? kHeld : 1); ++h)
    for (int i = threadIdx.x + h * kThreads; i < packs; i += kHeld ? packs : kThreads) {
      P p = in[i];
      if (res) res[i] = p = added(p, res[i]);
      if constexpr (kHeld > 0) held[h] = p, factors[h] = w[i];
      squares = addSquares(squares, p);
    }
  const float scale = rsqrtf(blockSum<kThreads>(squares) / static_cast<float>(hidden) + eps);
  const P* from = res ? res : in;
#pragma unroll
  for (int h = 0; h < (kHeld ? kHeld : 1); ++h)
    for (int i = threadIdx.x + h * kThreads; i < packs; i += kHeld ? packs : kThreads)
      to[i] = kHeld ? normalised(held[h], factors[h], scale, gemma) : normalised(from[i], w[i], scale, gemma);
}

template <class T, bool kVector>
auto kernelFor(int64_t packs) {
  if (kVector && packs <= kThreads) return rmsNormKernel<T, kVector, kVector ? 1 : 0>;
  if (kVector && packs <= 2 * kThreads) return rmsNormKernel<T, kVector, kVector ? 2 : 0>;
  if (kVector && packs <= 4 * kThreads) return rmsNormKernel<T, kVector, kVector ? 4 : 0>;
  return rmsNormKernel<T, kVector, 0>;
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
      const auto kernel = vector ? kernelFor<T, true>(x.dims[1] / width) : kernelFor<T, false>(x.dims[1]);
      launchChained({s, stream.overlaps()}, kernel, static_cast<unsigned>(x.dims[0]), kThreads, out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0], res,
                    resStride, weight.ptr<T>(), static_cast<int>(x.dims[1]), static_cast<float>(eps), gemma);
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
