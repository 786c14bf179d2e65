// What the tensor core kernels for linear layers share: tiles of operands in shared memory, fed by cp.async, and mma.sync m16n8k16 over
// them. For every GPU since sm_80.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/convert.cuh"

namespace kvasir::cuda::tile {

inline constexpr int kDepth = 64;  // elements of k per stage: rows of 128 bytes, 8 chunks of 16 bytes
inline constexpr int kRowBytes = kDepth * 2;
inline constexpr int kChunks = kRowBytes / 16;

// Chunks of a row are permuted by its number, so that 8 rows of one chunk lie in different banks.
__device__ __forceinline__ uint32_t chunkOffset(int row, int chunk) { return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row & 7)) << 4)); }

// 16 bytes to shared memory; zeros if not `valid` (nothing is read then).
__device__ __forceinline__ void copyAsync(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void commitAsync() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

template <int kPending>
__device__ __forceinline__ void waitAsync() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices; lanes 8i .. 8i+7 give the rows of matrix i.
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c += a b: floats of 16-bit numbers, or integers of 8-bit ones, 32 of which a row has in place of 16.
template <class T, class Sum>
__device__ __forceinline__ void multiply(Sum (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, int8_t>)
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Adds the products of one stage to the sums of one warp: tiles [kM, 128 bytes] and [kN, 128 bytes] in shared memory.
template <class T, int kM, int kWarpM, int kWarpN, class Sum>
__device__ __forceinline__ void multiplyStage(Sum (&sum)[kWarpM / 16][kWarpN / 8][4], uint32_t xTile, uint32_t wTile) {
  constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
#pragma unroll
  for (int step = 0; step < kRowBytes / 32; ++step) {
    uint32_t left[kTilesM][4];
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) loadMatrices(left[i], xTile + chunkOffset(warpRow + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int j = 0; j < kTilesN; j += 2) {
      uint32_t right[4];  // two tiles of 8 columns
      loadMatrices(right, wTile + chunkOffset(warpColumn + j * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        multiply<T>(sum[i][j], left[i], right[0], right[1]);
        multiply<T>(sum[i][j + 1], left[i], right[2], right[3]);
      }
    }
  }
}

// The sums of one warp's part [kWarpM, kWarpN] of a tile: a thread's four of an m16n8 tile are rows lane/4 and lane/4 + 8, columns
// 2 (lane%4) and the next. Both operands are [rows, k] row-major, k in stages of 64 that pass through a ring of kStages tiles
// [kM + kN, 64] from `base` (shared memory). load(stage, to) queues the copies of one stage to the address `to`; it is called in order by all
// threads of the block. Each sum is taken in the order of k in steps of 16, whatever the tile. With 8-bit operands a stage is 128 of k.
template <class T, int kM, int kN, int kWarpM, int kWarpN, int kStages, class Load, class Sum>
__device__ __forceinline__ void multiplyTiles(Sum (&sum)[kWarpM / 16][kWarpN / 8][4], uint32_t base, int stages, Load&& load) {
  constexpr uint32_t kStageBytes = (kM + kN) * kRowBytes;
  auto fetch = [&](int stage) {
    if (stage < stages) load(stage, base + static_cast<uint32_t>(stage % kStages) * kStageBytes);
    commitAsync();  // an empty group too: the count of groups tells which stage has arrived
  };
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  for (int stage = 0; stage < stages; ++stage) {
    waitAsync<kStages - 2>();
    __syncthreads();  // this stage is there for all, and all are done with the one that is overwritten next
    fetch(stage + kStages - 1);
    const uint32_t xTile = base + static_cast<uint32_t>(stage % kStages) * kStageBytes;
    multiplyStage<T, kM, kWarpM, kWarpN>(sum, xTile, xTile + kM * kRowBytes);
  }
  waitAsync<0>();
}

}  // namespace kvasir::cuda::tile
