// Linear layers on tensor cores without a library: mma.sync m16n8k16 fed by cp.async, for every GPU since sm_80.
#include "cuda/check.h"
#include "cuda/gemm/element.cuh"
#include "cuda/gemm/mma_tile.cuh"

namespace kvasir::cuda {

namespace {

using namespace tile;

// A tile of kRows rows and 64 columns of a row-major matrix. A thread copies one chunk of every kStep-th row: `from` is its first one,
// `to` where that goes, and `rows` of the matrix are left from there on. Zeros beyond them, and everywhere unless `inside` (columns).
template <class T, int kRows, int kThreads>
__device__ __forceinline__ void loadTile(uint32_t to, const T* from, int64_t stride, int64_t rows, bool inside, const void* anywhere) {
  constexpr int kStep = kThreads / kChunks;
  static_assert(kRows % kStep == 0 && kStep % 8 == 0);  // so the permutation of chunks is the same for all rows of a thread
#pragma unroll
  for (int row = 0; row < kRows; row += kStep) {
    const bool valid = inside && row < rows;
    copyAsync(to + static_cast<uint32_t>(row * kRowBytes), valid ? static_cast<const void*>(from + row * stride) : anywhere, valid);
  }
}

// A block computes a tile out [kM, kN] with (kM / kWarpM) x (kN / kWarpN) warps of [kWarpM, kWarpN] each; x [m, k] is operand A, weight
// [n, k] operand B. Stages of 64 of k pass through a ring of kStages tiles in shared memory. A thread's four sums of an m16n8 tile are
// rows lane/4 and lane/4 + 8, columns 2 (lane%4) and the next.
template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
__global__ void __launch_bounds__((kM / kWarpM) * (kN / kWarpN) * 32, 2) mmaGemmKernel(const GemmArgs a) {
  constexpr int kThreads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;

  const int threadRow = threadIdx.x / kChunks, threadColumn = threadIdx.x % kChunks * 8;
  const T* const x = static_cast<const T*>(a.x) + (row0 + threadRow) * a.xStride + threadColumn;
  const T* const w = static_cast<const T*>(a.weight) + (column0 + threadRow) * a.weightStride + threadColumn;
  float sum[kTilesM][kTilesN][4] = {};
  multiplyTiles<T, kM, kN, kWarpM, kWarpN, kStages>(sum, base, static_cast<int>((a.k + kDepth - 1) / kDepth), [&](int stage, uint32_t tile) {
    const uint32_t to = tile + chunkOffset(threadRow, threadIdx.x % kChunks);
    const int first = stage * kDepth;
    const bool inside = first + threadColumn < a.k;
    loadTile<T, kM, kThreads>(to, x + first, a.xStride, a.m - row0 - threadRow, inside, a.x);
    loadTile<T, kN, kThreads>(to + kM * kRowBytes, w + first, a.weightStride, a.n - column0 - threadRow, inside, a.weight);
  });

#pragma unroll
  for (int j = 0; j < kTilesN; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t column = column0 + warpColumn + j * 8 + lane % 4 * 2 + e;
      if (column >= a.n) continue;
      const float bias = biasAt<T>(a, column);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t row = row0 + warpRow + i * 16 + half * 8 + lane / 4;
          if (row < a.m) storeAt<T>(a, row, column, sum[i][j][half * 2 + e] + bias);
        }
    }
}

template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
void launchTile(const GemmArgs& a, cudaStream_t stream) {
  constexpr int threads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int bytes = (kM + kN) * kRowBytes * kStages;
  const auto kernel = mmaGemmKernel<T, kM, kN, kWarpM, kWarpN, kStages>;
  if constexpr (bytes > 48 * 1024) KVASIR_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  // Blocks that share a part of the weight follow each other, so that the weight is read from memory once.
  const dim3 grid(static_cast<unsigned>((a.m + kM - 1) / kM), static_cast<unsigned>((a.n + kN - 1) / kN));
  kernel<<<grid, threads, bytes, stream>>>(a);
}

template <class T>
void launchType(const GemmArgs& a, cudaStream_t stream) {
  if (a.m <= 16) return launchTile<T, 16, 64, 16, 16, 4>(a, stream);
  if (a.m <= 64) return launchTile<T, 64, 64, 32, 32, 4>(a, stream);
  launchTile<T, 128, 128, 64, 32, 3>(a, stream);
}

}  // namespace

void launchMmaGemm(const GemmArgs& args, DType dtype, cudaStream_t stream) {
  if (dtype == DType::Float16)
    launchType<__half>(args, stream);
  else
    launchType<__nv_bfloat16>(args, stream);
}

}  // namespace kvasir::cuda
