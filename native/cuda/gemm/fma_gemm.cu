// Linear layers without tensor cores: float32, and whatever is too small or too unaligned for the other kernels.
#include "cuda/gemm/element.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kEach = 4;
constexpr int kPitch = kTile + 4;  // rows of shared memory stay 16-byte aligned

// Loads [kTile rows, kDepth] of a row-major matrix into shared memory, transposed: to[depth][row]. Zeros beyond rows and k.
template <class T>
__device__ __forceinline__ void loadTile(float (&to)[kDepth][kPitch], const T* from, int64_t stride, int64_t row0, int64_t rows, int64_t k0, int64_t k) {
  const int depth = threadIdx.x % kDepth;
#pragma unroll
  for (int i = threadIdx.x / kDepth; i < kTile; i += kThreads / kDepth) {
    const int64_t row = row0 + i, column = k0 + depth;
    to[depth][i] = row < rows && column < k ? toFloatDevice(from[row * stride + column]) : 0.0f;
  }
}

// A block computes a tile out [64, 64], a thread 4 x 4 elements of it, over slices of 16 of k: out [m, n] = x [m, k] weight [n, k]^T + bias.
template <class T>
__global__ void __launch_bounds__(kThreads) fmaGemmKernel(const GemmArgs a) {
  __shared__ __align__(16) float xs[kDepth][kPitch];
  __shared__ __align__(16) float ws[kDepth][kPitch];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTile, column0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int ty = threadIdx.x / (kTile / kEach), tx = threadIdx.x % (kTile / kEach);
  float sum[kEach][kEach] = {};
  for (int64_t k0 = 0; k0 < a.k; k0 += kDepth) {
    loadTile(xs, static_cast<const T*>(a.x), a.xStride, row0, a.m, k0, a.k);
    loadTile(ws, static_cast<const T*>(a.weight), a.weightStride, column0, a.n, k0, a.k);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const float4 xv = *reinterpret_cast<const float4*>(&xs[d][ty * kEach]);
      const float4 wv = *reinterpret_cast<const float4*>(&ws[d][tx * kEach]);
      const float left[kEach] = {xv.x, xv.y, xv.z, xv.w}, right[kEach] = {wv.x, wv.y, wv.z, wv.w};
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t column = column0 + tx * kEach + j;
    if (column >= a.n) continue;
    const float bias = biasAt<T>(a, column);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t row = row0 + ty * kEach + i;
      if (row < a.m) storeAt<T>(a, row, column, sum[i][j] + bias);
    }
  }
}

// A thread adds one bias to one element of a row; blocks are (columns / 256, rows).
template <class T>
__global__ void __launch_bounds__(kThreads) addBiasKernel(const GemmArgs a) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= a.n) return;
  static_cast<float*>(a.out)[blockIdx.x * a.outStride + column] += biasAt<T>(a, column);
}

unsigned tiles(int64_t size, int64_t tile) { return static_cast<unsigned>((size + tile - 1) / tile); }

}  // namespace

void launchFmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    fmaGemmKernel<T><<<dim3(tiles(args.m, kTile), tiles(args.n, kTile)), kThreads, 0, stream>>>(args);
  });
}

void launchAddBias(const GemmArgs& args, DType dtype, cudaStream_t stream) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    addBiasKernel<T><<<dim3(static_cast<unsigned>(args.m), tiles(args.n, kThreads)), kThreads, 0, stream>>>(args);
  });
}

}  // namespace kvasir::cuda
