// int8 activations with int8 weights on tensor cores.
#include "cuda/access.cuh"
#include "cuda/check.h"
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/quant/decode.cuh"

namespace kvasir::cuda {

namespace {

using namespace tile;

// As mmaGemmKernel, with stages of 128 inputs of a byte: a block computes a tile out [kM, kN] with warps of [kWarpM, kWarpN] each. Sums are
// integers, exact; they are scaled by token and by feature when they are stored.
//   codes: [m, k] with a scale per row. Grid: (tokens / kM, features / kN).
template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
__global__ void __launch_bounds__((kM / kWarpM) * (kN / kWarpN) * 32, 2) int8GemmKernel(const QuantArgs q, const uint8_t* codes, const float* rowScales) {
  constexpr int kThreads = (kM / kWarpM) * (kN / kWarpN) * 32, kStep = kThreads / kChunks;
  static_assert(kM % kStep == 0 && kN % kStep == 0 && kStep % 8 == 0);  // so the permutation of chunks is the same for all rows of a thread
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const GemmArgs& a = q.gemm;
  letNextStart();
  waitForPrevious();
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int threadRow = threadIdx.x / kChunks, threadByte = threadIdx.x % kChunks * 16;
  const uint8_t* const x = codes + (row0 + threadRow) * a.k + threadByte;
  const uint8_t* const w = static_cast<const uint8_t*>(a.weight) + (column0 + threadRow) * a.k + threadByte;
  int32_t sum[kWarpM / 16][kWarpN / 8][4] = {};
  multiplyTiles<int8_t, kM, kN, kWarpM, kWarpN, kStages>(sum, base, static_cast<int>(ceilDiv(a.k, kRowBytes)), [&](int stage, uint32_t stageTile) {
    const uint32_t to = stageTile + chunkOffset(threadRow, threadIdx.x % kChunks);
    const int64_t first = static_cast<int64_t>(stage) * kRowBytes;
    const bool inside = first + threadByte < a.k;
#pragma unroll
    for (int row = 0; row < kM; row += kStep) {
      const bool valid = inside && row0 + threadRow + row < a.m;
      copyAsync(to + static_cast<uint32_t>(row * kRowBytes), valid ? x + row * a.k + first : codes, valid);
    }
#pragma unroll
    for (int row = 0; row < kN; row += kStep) {
      const bool valid = inside && column0 + threadRow + row < a.n;
      copyAsync(to + static_cast<uint32_t>((kM + row) * kRowBytes), valid ? static_cast<const void*>(w + row * a.k + first) : a.weight, valid);
    }
  });

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
#pragma unroll
  for (int j = 0; j < kWarpN / 8; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t column = column0 + warpColumn + j * 8 + lane % 4 * 2 + e;
      if (column >= a.n) continue;
      const float bias = biasAt<T>(a, column), scale = quant::scaleOf(q, quant::scaleBits(q, quant::scaleRow(q, column)));
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t row = row0 + warpRow + i * 16 + half * 8 + lane / 4;
          if (row < a.m) storeAt<T>(a, row, column, fmaf(static_cast<float>(sum[i][j][half * 2 + e]) * rowScales[row], scale, bias));
        }
    }
}

template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages>
void launchTile(const QuantArgs& q, const RoundedRows& x, Chain chain) {
  constexpr int threads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int bytes = (kM + kN) * kRowBytes * kStages;
  static_assert(bytes <= 99 * 1024);
  const auto kernel = int8GemmKernel<T, kM, kN, kWarpM, kWarpN, kStages>;
  if constexpr (bytes > 48 * 1024) KVASIR_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  chain.sharedBytes = bytes;
  const dim3 grid(static_cast<unsigned>(ceilDiv(q.gemm.m, kM)), static_cast<unsigned>(ceilDiv(q.gemm.n, kN)));
  launchChained(chain, kernel, grid, threads, q, static_cast<const uint8_t*>(x.codes), static_cast<const float*>(x.scales));
}

template <class T>
void launchTiles(const QuantArgs& q, const RoundedRows& x, Chain chain) {
  constexpr int64_t kLargeTiles = 120;  // small tiles until large ones fill most devices
  if (ceilDiv(q.gemm.m, 128) * ceilDiv(q.gemm.n, 128) >= kLargeTiles) return launchTile<T, 128, 128, 64, 32, 3>(q, x, chain);
  launchTile<T, 64, 64, 32, 32, 4>(q, x, chain);
}

}  // namespace

void launchInt8Gemm(const QuantArgs& args, const RoundedRows& x, DType dtype, Chain chain) {
  if (dtype == DType::Float16) return launchTiles<__half>(args, x, chain);
  launchTiles<__nv_bfloat16>(args, x, chain);
}

}  // namespace kvasir::cuda
