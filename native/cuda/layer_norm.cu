#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

// One size for every number of tokens: a row's sums are taken in the same order in any batch.
constexpr int kThreads = 256;

// The packs of a row that one thread has: i, i + kThreads, .. With kHeld > 0 there are at most kHeld of them, all slots known at compile time.
template <int kHeld, class F>
__device__ __forceinline__ void forPacks(int packs, F&& body) {
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = threadIdx.x + h * kThreads;
      if (i < packs) body(h, i);
    }
  } else {
    for (int i = threadIdx.x; i < packs; i += kThreads) body(0, i);
  }
}

// Where the rows are, in elements.
template <class T>
struct LayerNormArgs {
  T* out;
  const T* x;
  T* residual;  // or null; becomes x + residual
  const T* weight;
  const T* bias;  // or null
  int64_t outStride, xStride, residualStride;
  int hidden;
  float eps;
};

// One block per row, in 16-byte packs where rows are aligned to them, else in single elements. Up to kHeld packs per thread stay in
// registers; with kHeld 0 rows of any length are read three times, the second and third time from L1/L2.
//   out, x, residual: rows of [hidden] at their strides; weight, bias: [hidden].
template <class T, bool kVector, int kHeld>
__global__ void __launch_bounds__(kThreads) layerNormKernel(LayerNormArgs<T> a) {
  constexpr int kWidth = kVector ? Vec<T>::kSize : 1;
  using P = Pack<T, kWidth>;
  letNextStart();
  const int64_t row = blockIdx.x;
  const P* in = reinterpret_cast<const P*>(a.x + row * a.xStride);
  P* res = a.residual ? reinterpret_cast<P*>(a.residual + row * a.residualStride) : nullptr;
  const P* weight = reinterpret_cast<const P*>(a.weight);
  const P* bias = reinterpret_cast<const P*>(a.bias);
  P* out = reinterpret_cast<P*>(a.out + row * a.outStride);
  const int packs = a.hidden / kWidth;
  if (row == 0)  // the weights were last read a whole forward pass ago
    for (int i = threadIdx.x; i < packs; i += kThreads) {
      prefetchToL2(weight + i);
      if (bias) prefetchToL2(bias + i);
    }
  waitForPrevious();
  P held[kHeld ? kHeld : 1];
  float sum = 0;
  forPacks<kHeld>(packs, [&](int h, int i) {
    P p = in[i];
    if (res) {
      const P r = res[i];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) p.v[j] = convert<T>(toFloatDevice(p.v[j]) + toFloatDevice(r.v[j]));
      res[i] = p;
    }
    held[h] = p;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += toFloatDevice(p.v[j]);
  });
  const P* from = res ? res : in;
  const auto element = [&](int h, int i) { return kHeld ? held[h] : from[i]; };
  const float mean = blockSum<kThreads>(sum) / static_cast<float>(a.hidden);
  float squares = 0;
  forPacks<kHeld>(packs, [&](int h, int i) {
    const P p = element(h, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) squares += (toFloatDevice(p.v[j]) - mean) * (toFloatDevice(p.v[j]) - mean);
  });
  const float scale = rsqrtf(blockSum<kThreads>(squares) / static_cast<float>(a.hidden) + a.eps);
  forPacks<kHeld>(packs, [&](int h, int i) {
    const P p = element(h, i), w = weight[i];
    P b{}, y;
    if (bias) b = bias[i];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) y.v[j] = convert<T>((toFloatDevice(p.v[j]) - mean) * scale * toFloatDevice(w.v[j]) + (bias ? toFloatDevice(b.v[j]) : 0.0f));
    out[i] = y;
  });
}

template <class T, bool kVector>
auto kernelFor(int64_t packs) {
  if (kVector && packs <= kThreads) return layerNormKernel<T, kVector, kVector ? 1 : 0>;
  if (kVector && packs <= 2 * kThreads) return layerNormKernel<T, kVector, kVector ? 2 : 0>;
  if (kVector && packs <= 4 * kThreads) return layerNormKernel<T, kVector, kVector ? 4 : 0>;
  return layerNormKernel<T, kVector, 0>;
}

void launch(CudaStream& stream, const char* name, const Tensor& out, const Tensor& x, const MaybeTensor& residual, const Tensor& weight, const MaybeTensor& bias,
            double eps) {
  if (x.numel() == 0) return;
  const int64_t size = elementSize(x.dtype);
  const bool vector = accessBytes({addressOf(out), addressOf(x), addressOf(weight), residual ? addressOf(*residual) : 0, bias ? addressOf(*bias) : 0,
                                   x.dims[1] * size, out.strides[0] * size, x.strides[0] * size, residual ? residual->strides[0] * size : 0}) == 16;
  stream.launch(name, [&](cudaStream_t s) {
    dispatchFloat(x.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      const LayerNormArgs<T> args{.out = out.ptr<T>(),
                                  .x = x.ptr<T>(),
                                  .residual = residual ? residual->ptr<T>() : nullptr,
                                  .weight = weight.ptr<T>(),
                                  .bias = bias ? bias->ptr<T>() : nullptr,
                                  .outStride = out.strides[0],
                                  .xStride = x.strides[0],
                                  .residualStride = residual ? residual->strides[0] : 0,
                                  .hidden = static_cast<int>(x.dims[1]),
                                  .eps = static_cast<float>(eps)};
      const auto kernel = vector ? kernelFor<T, true>(x.dims[1] / Vec<T>::kSize) : kernelFor<T, false>(x.dims[1]);
      launchChained({s, stream.overlaps()}, kernel, static_cast<unsigned>(x.dims[0]), kThreads, args);
    });
  });
}

}  // namespace

void layerNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps) {
  launch(stream, "layerNorm", out, x, std::nullopt, weight, bias, eps);
}

void addLayerNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps) {
  launch(stream, "addLayerNorm", out, x, residual, weight, bias, eps);
}

}  // namespace kvasir::cuda
