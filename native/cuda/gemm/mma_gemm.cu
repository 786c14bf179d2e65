// Linear layers on tensor cores without a library: mma.sync m16n8k16 fed by cp.async, for every GPU since sm_80.
#include <type_traits>

#include "cuda/check.h"
#include "cuda/gemm/element.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kDepth = 64;              // elements of k per stage: rows of 128 bytes, 8 chunks of 16 bytes
constexpr int kRowBytes = kDepth * 2;
constexpr int kChunks = kRowBytes / 16;

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

template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

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
  constexpr uint32_t kStageBytes = (kM + kN) * kRowBytes;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0);
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpRow = warp % (kM / kWarpM) * kWarpM, warpColumn = warp / (kM / kWarpM) * kWarpN;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int stages = static_cast<int>((a.k + kDepth - 1) / kDepth);

  const int threadRow = threadIdx.x / kChunks, threadColumn = threadIdx.x % kChunks * 8;
  const T* const x = static_cast<const T*>(a.x) + (row0 + threadRow) * a.xStride + threadColumn;
  const T* const w = static_cast<const T*>(a.weight) + (column0 + threadRow) * a.weightStride + threadColumn;
  auto load = [&](int stage) {
    if (stage < stages) {
      const uint32_t to = base + static_cast<uint32_t>(stage % kStages) * kStageBytes + chunkOffset(threadRow, threadIdx.x % kChunks);
      const int first = stage * kDepth;
      const bool inside = first + threadColumn < a.k;
      loadTile<T, kM, kThreads>(to, x + first, a.xStride, a.m - row0 - threadRow, inside, a.x);
      loadTile<T, kN, kThreads>(to + kM * kRowBytes, w + first, a.weightStride, a.n - column0 - threadRow, inside, a.weight);
    }
    commitAsync();  // an empty group too: the count of groups tells which stage has arrived
  };
  for (int stage = 0; stage < kStages - 1; ++stage) load(stage);

  float sum[kTilesM][kTilesN][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    waitAsync<kStages - 2>();
    __syncthreads();  // this stage is there for all, and all are done with the one that is overwritten next
    load(stage + kStages - 1);
    const uint32_t xTile = base + static_cast<uint32_t>(stage % kStages) * kStageBytes, wTile = xTile + kM * kRowBytes;
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
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
  waitAsync<0>();

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
