// Quantized weights on tensor cores for any number of tokens.
#pragma once

#include "cuda/access.cuh"
#include "cuda/check.h"
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/quant/decode.cuh"

namespace kvasir::cuda {

namespace quant {

// The codes of a chunk of 16 bytes as pairs of T in the order of the inputs, less the zero point.
template <class T, QuantKind kKind>
__device__ __forceinline__ void decodeChunk(const uint4& chunk, int zero, uint32_t (&pairs)[kKind == QuantKind::Int4 ? 16 : 8]) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (kKind == QuantKind::Int4) {
      uint32_t apart[4];
      decodeInt4<T>(words[w], int4Offset<T>(zero), apart);
      pairs[w * 4] = __byte_perm(apart[0], apart[1], 0x5410);
      pairs[w * 4 + 1] = __byte_perm(apart[2], apart[3], 0x5410);
      pairs[w * 4 + 2] = __byte_perm(apart[0], apart[1], 0x7632);
      pairs[w * 4 + 3] = __byte_perm(apart[2], apart[3], 0x7632);
    } else {
      uint32_t two[2];
      if constexpr (kKind == QuantKind::Int8) decodeInt8<T>(words[w], two);
      else decodeFp8<T>(words[w], two);
      pairs[w * 2] = two[0], pairs[w * 2 + 1] = two[1];
    }
  }
}

__device__ __forceinline__ void storeShared(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ __forceinline__ uint4 loadShared(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}

// What a block of kM x kN needs: kAhead + 1 tiles of x, kAhead of codes, two of decoded weights.
template <QuantKind kKind, int kM, int kN, int kAhead>
struct TileMemory {
  static constexpr int kX = kM * tile::kRowBytes, kW = kN * tile::kRowBytes;
  static constexpr int kCodes = kW / (kKind == QuantKind::Int4 ? 4 : 2);
  static constexpr int kXBegin = 0, kWBegin = (kAhead + 1) * kX, kCodesBegin = kWBegin + 2 * kW, kBytes = kCodesBegin + kAhead * kCodes;
};

// Where a thread's chunks of codes come from and go to, stage by stage.
template <class T, QuantKind kKind, bool kScaled, int kN, int kThreads>
struct WeightTile {
  static constexpr int kPerRow = kKind == QuantKind::Int4 ? 2 : 4, kEach = kN * kPerRow / kThreads;  // chunks of a row and of a thread
  static constexpr int kInputs = tile::kDepth / kPerRow;                                             // of a chunk
  static_assert(kN * kPerRow % kThreads == 0 && kThreads % kPerRow == 0);
  const QuantArgs& q;
  int64_t feature0;
  uint32_t scales[kEach];
  int zeros[kEach];

  __device__ __forceinline__ int64_t feature(int i) const { return feature0 + threadIdx.x / kPerRow + i * (kThreads / kPerRow); }
  static __device__ __forceinline__ int piece() { return threadIdx.x % kPerRow; }

  // Copies the chunks of a stage to `to`, zeros where there are none.
  __device__ __forceinline__ void fetch(int stage, uint32_t to) const {
    const int64_t at = (static_cast<int64_t>(stage) * kPerRow + piece()) * 16;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool valid = feature(i) < q.gemm.n && at < q.gemm.weightStride;
      const void* from = valid ? static_cast<const uint8_t*>(q.gemm.weight) + feature(i) * q.gemm.weightStride + at : q.gemm.weight;
      tile::copyAsync(to + static_cast<uint32_t>((threadIdx.x + i * kThreads) * 16), from, valid);
    }
  }

  // Asks for the scales and zero points of a stage.
  __device__ __forceinline__ void loadFactors(int stage) {
    const uint32_t input = static_cast<uint32_t>(stage * tile::kDepth + piece() * kInputs);
    const int group = kScaled ? min(static_cast<int>(input / static_cast<uint32_t>(q.group)), q.groups - 1) : 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t row = min(feature(i), q.gemm.n - 1);
      if constexpr (kScaled) scales[i] = scaleBits(q, scaleRow(q, row) + group);
      zeros[i] = kKind == QuantKind::Int4 ? zeroAt(q, row * q.groups + group) : 0;
    }
  }

  // Decodes the chunks at `from` into the tile at `to`, whose chunks are permuted as multiplyStage wants them.
  __device__ __forceinline__ void decode(uint32_t from, uint32_t to) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      uint32_t pairs[kInputs / 2];
      decodeChunk<T, kKind>(loadShared(from + static_cast<uint32_t>((threadIdx.x + i * kThreads) * 16)), zeros[i], pairs);
      if constexpr (kScaled) {
        const float scale = scaleOf(q, scales[i]);
#pragma unroll
        for (int p = 0; p < kInputs / 2; ++p) {
          const float2 values = toFloats(asPair<T>(pairs[p]));
          pairs[p] = packFloats(values.x * scale, values.y * scale, static_cast<T*>(nullptr));
        }
      }
      const int row = static_cast<int>(threadIdx.x) / kPerRow + i * (kThreads / kPerRow);
#pragma unroll
      for (int c = 0; c < kInputs / 8; ++c)
        storeShared(to + tile::chunkOffset(row, piece() * (kInputs / 8) + c), pairs[c * 4], pairs[c * 4 + 1], pairs[c * 4 + 2], pairs[c * 4 + 3]);
    }
  }
};

// A block computes a tile out [kM, kN] with warps of [kWarpM, kWarpN] each, over stages of 64 of k. Tiles of x and of codes are copied
// kAhead stages before they are needed; each thread decodes the codes that it copied itself into one of two tiles of T, from which
// the warps multiply after the barrier of the stage. kScaled: decoded weights are scaled; otherwise there is one group, and sums are.
// Grid: (tokens / kM, features / kN).
template <class T, QuantKind kKind, bool kScaled, int kM, int kN, int kWarpM, int kWarpN, int kAhead>
__global__ void __launch_bounds__((kM / kWarpM) * (kN / kWarpN) * 32, 2) quantTileKernel(const QuantArgs q) {
  using namespace tile;
  using Memory = TileMemory<kKind, kM, kN, kAhead>;
  constexpr int kThreads = (kM / kWarpM) * (kN / kWarpN) * 32, kStep = kThreads / kChunks;
  static_assert(kM % kStep == 0 && kStep % 8 == 0);  // so the permutation of chunks is the same for all rows of a thread
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const GemmArgs& a = q.gemm;
  letNextStart();
  waitForPrevious();
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int threadRow = threadIdx.x / kChunks, threadColumn = threadIdx.x % kChunks * 8;
  const T* const x = static_cast<const T*>(a.x) + (row0 + threadRow) * a.xStride + threadColumn;
  const int stages = static_cast<int>((a.k + kDepth - 1) / kDepth);
  WeightTile<T, kKind, kScaled, kN, kThreads> weight{q, column0, {}, {}};

  const auto fetch = [&](int stage) {
    if (stage < stages) {
      const uint32_t to = base + static_cast<uint32_t>(stage % (kAhead + 1) * Memory::kX) + chunkOffset(threadRow, threadIdx.x % kChunks);
      const int first = stage * kDepth;
#pragma unroll
      for (int row = 0; row < kM; row += kStep) {
        const bool valid = first + threadColumn < a.k && row0 + threadRow + row < a.m;
        copyAsync(to + static_cast<uint32_t>(row * kRowBytes), valid ? static_cast<const void*>(x + row * a.xStride + first) : a.x, valid);
      }
      weight.fetch(stage, base + static_cast<uint32_t>(Memory::kCodesBegin + stage % kAhead * Memory::kCodes));
    }
    commitAsync();  // an empty group too: the count of groups tells which stage has arrived
  };
  for (int stage = 0; stage < kAhead; ++stage) fetch(stage);
  weight.loadFactors(0);
  float sum[kWarpM / 16][kWarpN / 8][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < stages; ++stage) {
    waitAsync<kAhead - 1>();
    const uint32_t decoded = base + static_cast<uint32_t>(Memory::kWBegin + stage % 2 * Memory::kW);
    weight.decode(base + static_cast<uint32_t>(Memory::kCodesBegin + stage % kAhead * Memory::kCodes), decoded);
    __syncthreads();  // this stage is there for all, and all are done with the one before
    fetch(stage + kAhead);
    if (kScaled && stage + 1 < stages) weight.loadFactors(stage + 1);
    multiplyStage<T, kM, kWarpM, kWarpN>(sum, base + static_cast<uint32_t>(stage % (kAhead + 1) * Memory::kX), decoded);
  }
  waitAsync<0>();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
#pragma unroll
  for (int j = 0; j < kWarpN / 8; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t column = column0 + warpColumn + j * 8 + lane % 4 * 2 + e;
      if (column >= a.n) continue;
      const float bias = biasAt<T>(a, column), scale = kScaled ? 1.0f : scaleOf(q, scaleBits(q, scaleRow(q, column)));
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t row = row0 + warpRow + i * 16 + half * 8 + lane / 4;
          if (row < a.m) storeAt<T>(a, row, column, fmaf(sum[i][j][half * 2 + e], scale, bias));
        }
    }
}

template <class T, QuantKind kKind, bool kScaled, int kM, int kN, int kWarpM, int kWarpN, int kAhead>
void launchTile(const QuantArgs& q, Chain chain) {
  constexpr int threads = (kM / kWarpM) * (kN / kWarpN) * 32;
  constexpr int bytes = TileMemory<kKind, kM, kN, kAhead>::kBytes;
  static_assert(bytes <= 99 * 1024);  // what every GPU since sm_80 has
  const auto kernel = quantTileKernel<T, kKind, kScaled, kM, kN, kWarpM, kWarpN, kAhead>;
  if constexpr (bytes > 48 * 1024) KVASIR_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  chain.sharedBytes = bytes;
  // Blocks that share a part of the weight follow each other, so that the weight is read from memory once.
  const dim3 grid(static_cast<unsigned>(ceilDiv(q.gemm.m, kM)), static_cast<unsigned>(ceilDiv(q.gemm.n, kN)));
  launchChained(chain, kernel, grid, threads, q);
}

template <class T, QuantKind kKind, bool kScaled>
void launchTiles(const QuantArgs& q, Chain chain) {
  // Small tiles until large ones fill most devices.
  constexpr int64_t kLargeTiles = 120;
  if (ceilDiv(q.gemm.m, 128) * ceilDiv(q.gemm.n, 128) >= kLargeTiles) return launchTile<T, kKind, kScaled, 128, 128, 64, 32, 2>(q, chain);
  launchTile<T, kKind, kScaled, 64, 64, 32, 32, 4>(q, chain);
}

}  // namespace quant

template <QuantKind kKind>
void launchQuantTile(const QuantArgs& args, DType dtype, Chain chain) {
  const auto launch = [&]<class T>(T*) {
    // int4 is scaled in either case: channel-wise checkpoints are rare, and these kernels take long to compile.
    if (kKind == QuantKind::Int4 || args.groups > 1) return quant::launchTiles<T, kKind, true>(args, chain);
    if constexpr (kKind != QuantKind::Int4) quant::launchTiles<T, kKind, false>(args, chain);
  };
  if (dtype == DType::Float16) launch(static_cast<__half*>(nullptr));
  else launch(static_cast<__nv_bfloat16*>(nullptr));
}

}  // namespace kvasir::cuda
