// moeLinear on tensor cores: the tiles of the linear kernels, with rows of x gathered by the table of pairs.
#include "cuda/check.h"
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/moe/grouped.cuh"

namespace kvasir::cuda {

namespace {

using namespace tile;

// A block computes a tile [kM pairs of one block of the table, kN features of its expert] with warps of [kWarpM, kWarpN] each. A thread
// copies one chunk of 16 bytes of every kStep-th row of both operands per stage of 64 of k; rows without a pair are zeros and stored
// nowhere. Blocks of the table that are not used end at once.
template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
__global__ void __launch_bounds__((kM / kWarpM) * (kN / kWarpN) * 32, 2) groupedMmaKernel(const GroupedArgs a) {
  constexpr int kThreads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int kStep = kThreads / kChunks;
  static_assert(kM % kStep == 0 && kN % kStep == 0 && kStep % 8 == 0);  // so the permutation of chunks is the same for all rows of a thread
  extern __shared__ __align__(128) unsigned char memory[];
  letNextStart();
  waitForPrevious();
  const int32_t* block = a.blocks + static_cast<int64_t>(blockIdx.x) * (1 + kM);
  const int expert = block[0];
  if (static_cast<unsigned>(expert) >= static_cast<unsigned>(a.numExperts)) return;
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int64_t column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int threadRow = threadIdx.x / kChunks, threadColumn = threadIdx.x % kChunks * 8;

  const T* rows[kM / kStep];
#pragma unroll
  for (int i = 0; i < kM / kStep; ++i) {
    const int pair = pairAt(a, block, threadRow + i * kStep);
    rows[i] = pair < 0 ? nullptr : rowOf<T>(a, pair) + threadColumn;
  }
  const T* const w = static_cast<const T*>(a.weights) + expert * a.expertStride + (column0 + threadRow) * a.k + threadColumn;
  const int64_t features = a.n - column0 - threadRow;  // from this thread's first row of the weight on

  float sum[kWarpM / 16][kWarpN / 8][4] = {};
  multiplyTiles<T, kM, kN, kWarpM, kWarpN, kStages>(sum, base, static_cast<int>((a.k + kDepth - 1) / kDepth), [&](int stage, uint32_t tile) {
    const uint32_t to = tile + chunkOffset(threadRow, threadIdx.x % kChunks);
    const int first = stage * kDepth;
    const bool inside = first + threadColumn < a.k;
#pragma unroll
    for (int i = 0; i < kM / kStep; ++i) {
      const bool valid = inside && rows[i] != nullptr;
      copyAsync(to + static_cast<uint32_t>(i * kStep * kRowBytes), valid ? static_cast<const void*>(rows[i] + first) : a.x, valid);
    }
#pragma unroll
    for (int row = 0; row < kN; row += kStep) {
      const bool valid = inside && row < features;
      copyAsync(to + static_cast<uint32_t>((kM + row) * kRowBytes), valid ? static_cast<const void*>(w + first + row * a.k) : a.weights, valid);
    }
  });

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
#pragma unroll
  for (int i = 0; i < kWarpM / 16; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pair = pairAt(a, block, warpRow + i * 16 + half * 8 + lane / 4);
      if (pair < 0) continue;
#pragma unroll
      for (int j = 0; j < kWarpN / 8; ++j)
        storeTwo<T>(a, pair, column0 + warpColumn + j * 8 + lane % 4 * 2, sum[i][j][half * 2], sum[i][j][half * 2 + 1]);
    }
}

template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
void launchTile(const GroupedArgs& a, Chain chain) {
  constexpr int threads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int bytes = (kM + kN) * kRowBytes * kStages;
  const auto kernel = groupedMmaKernel<T, kM, kN, kWarpM, kWarpN, kStages>;
  if constexpr (bytes > 48 * 1024) KVASIR_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  chain.sharedBytes = bytes;
  // Blocks of one expert follow each other, so that a part of its weight is read from memory once.
  launchChained(chain, kernel, dim3(static_cast<unsigned>(a.numBlocks), static_cast<unsigned>(ceilDiv(a.n, kN))), threads, a);
}

template <class T>
void launchType(const GroupedArgs& a, Chain chain) {
  // Few pairs per expert: the time is that of reading weights, and six stages keep enough of them on their way.
  if (a.blockRows == 16) return launchTile<T, 16, 64, 16, 16, 6>(a, chain);
  if (a.blockRows == 64) return launchTile<T, 64, 64, 32, 32, 4>(a, chain);
  launchTile<T, 128, 128, 64, 32, 3>(a, chain);
}

}  // namespace

void launchGroupedMma(const GroupedArgs& args, DType dtype, Chain chain) {
  if (dtype == DType::Float16)
    launchType<__half>(args, chain);
  else
    launchType<__nv_bfloat16>(args, chain);
}

}  // namespace kvasir::cuda
