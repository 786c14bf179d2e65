#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/activation.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/gemm/kernels.h"
#include "cuda/kernels.h"
#include "cuda/overlap.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

// Block (token, part): one pack of N elements per thread.
//   out [numTokens, size]; x [numTokens, size], or [numTokens, 2 * size] when gated (then the second half multiplies). out may be x.
template <class T, class Function, bool kGated, int N>
__global__ void __launch_bounds__(kThreads) activationKernel(T* out, int64_t outStride, const T* x, int64_t xStride, int size) {
  constexpr bool kFast = sizeof(T) == 2;
  letNextStart();
  waitForPrevious();
  const int pack = blockIdx.y * kThreads + threadIdx.x;
  if (pack >= size / N) return;
  const T* row = x + blockIdx.x * xStride;
  const Pack<T, N> gate = reinterpret_cast<const Pack<T, N>*>(row)[pack];
  Pack<T, N> up, result;
  if constexpr (kGated) up = reinterpret_cast<const Pack<T, N>*>(row + size)[pack];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float y = Function::template apply<kFast>(toFloatDevice(gate.v[j]));
    result.v[j] = convert<T>(kGated ? y * toFloatDevice(up.v[j]) : y);
  }
  reinterpret_cast<Pack<T, N>*>(out + blockIdx.x * outStride)[pack] = result;
}

template <class Function, bool kGated>
void activate(CudaStream& stream, const char* name, const Tensor& out, const Tensor& x) {
  if (out.numel() == 0) return;
  const int64_t bytes = elementSize(out.dtype);
  const bool vector = accessBytes({addressOf(out), addressOf(x), out.dims[1] * bytes, out.strides[0] * bytes, x.strides[0] * bytes}) == 16;
  stream.launch(name, [&](cudaStream_t s) {
    dispatchFloat(out.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? activationKernel<T, Function, kGated, N> : activationKernel<T, Function, kGated, 1>;
      const dim3 grid(static_cast<unsigned>(out.dims[0]), static_cast<unsigned>(ceilDiv(out.dims[1] / (vector ? N : 1), kThreads)));
      launchChained({s, stream.overlaps()}, kernel, grid, kThreads, out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0], static_cast<int>(out.dims[1]));
    });
  });
}

// Whether x is exactly the output of a linear layer that waits, and writing `out` disturbs nothing that it reads or stores.
bool continues(const PendingGemv& op, const Tensor& out, const Tensor& x) {
  const GemmArgs& a = op.args;
  const bool sameRows = x.data == a.out && x.dims[0] == a.m && x.dims[1] == a.n && (a.m == 1 || x.strides[0] == a.outStride);
  if (!sameRows || x.dtype != op.dtype || a.outFloat != (op.dtype == DType::Float32) || !fusesGated(op.warps)) return false;
  const int64_t size = elementSize(op.dtype), bytes = wholeSpan(out);
  const auto span = [&](int64_t rows, int64_t stride, int64_t columns) { return ((rows - 1) * stride + columns) * size; };
  return apart(out.data, bytes, a.x, span(a.m, a.xStride, a.k)) && apart(out.data, bytes, a.weight, span(a.n, a.weightStride, a.k)) &&
         apart(out.data, bytes, a.out, span(a.m, a.outStride, a.n)) &&
         (!a.bias || apart(out.data, bytes, a.bias, a.n * elementSize(a.biasFloat ? DType::Float32 : op.dtype)));
}

template <class Function>
void activateGated(CudaStream& stream, const char* name, const char* joinedName, GatedActivation kind, const Tensor& out, const Tensor& x) {
  const auto linear = stream.take<PendingGemv>([&](const PendingGemv& op) { return continues(op, out, x); });
  if (!linear) return activate<Function, true>(stream, name, out, x);
  stream.launch(joinedName, [&](cudaStream_t s) { launchGatedGemv(linear->args, {kind, out.data, out.strides[0]}, linear->dtype, linear->warps, s); });
}

}  // namespace

void siluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) {
  activateGated<Silu>(stream, "siluAndMul", "linear+siluAndMul", GatedActivation::Silu, out, x);
}
void geluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) {
  activateGated<Gelu>(stream, "geluAndMul", "linear+geluAndMul", GatedActivation::Gelu, out, x);
}
void geluTanhAndMul(CudaStream& stream, const Tensor& out, const Tensor& x) {
  activateGated<GeluTanh>(stream, "geluTanhAndMul", "linear+geluTanhAndMul", GatedActivation::GeluTanh, out, x);
}
void silu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Silu, false>(stream, "silu", out, x); }
void gelu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Gelu, false>(stream, "gelu", out, x); }
void geluTanh(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<GeluTanh, false>(stream, "geluTanh", out, x); }
void relu(CudaStream& stream, const Tensor& out, const Tensor& x) { activate<Relu, false>(stream, "relu", out, x); }

}  // namespace kvasir::cuda
