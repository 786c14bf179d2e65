#include "cuda/comm/local_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cuda/access.cuh"
#include "cuda/check.h"
#include "cuda/comm/local_meet.cuh"
#include "cuda/convert.cuh"

namespace kvasir::cuda::local {

namespace {

// How n items of itemBytes are dealt out: `chunk` items to a block and round. slots: how many chunks share a slice. The chunk is a
// multiple of 16 bytes, so that slices can be read in wide words whatever the tensors allow.
struct Deal {
  int64_t chunk;
  int rounds;
  unsigned blocks;
};

Deal deal(int64_t n, int64_t itemBytes, int slots) {
  Deal d{};
  const int64_t unit = 16 / itemBytes;
  d.blocks = static_cast<unsigned>(std::clamp<int64_t>(ceilDiv(n * itemBytes, int64_t{kThreads} * 16), 1, kBlocks));
  const int64_t most = kSliceBytes / (slots * itemBytes) / unit * unit;
  d.chunk = std::min(most, ceilDiv(ceilDiv(n, int64_t{d.blocks}), unit) * unit);
  d.rounds = static_cast<int>(ceilDiv(n, d.chunk * d.blocks));
  return d;
}

bool wide(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// count items from one place to another by the threads of a block; `wide16`: both are 16-byte aligned.
template <class T>
__device__ __forceinline__ void copyItems(T* to, const T* from, int64_t count, bool wide16) {
  int64_t done = 0;
  if (wide16) {
    constexpr int kWidth = 16 / sizeof(T);
    const int64_t words = count / kWidth;
    for (int64_t i = threadIdx.x; i < words; i += kThreads) reinterpret_cast<uint4*>(to)[i] = __ldcg(reinterpret_cast<const uint4*>(from) + i);
    done = words * kWidth;
  }
  for (int64_t i = done + threadIdx.x; i < count; i += kThreads) to[i] = from[i];
}

// out = sum over the ranks of their items at `offset` bytes of the slice, in rank order in float32: the same bits on every rank.
template <class T>
__device__ __forceinline__ void sumSlices(const Group& group, uint32_t round, int64_t offset, T* out, int64_t count, bool wideOut) {
  constexpr int kWidth = Vec<T>::kSize;
  const int64_t words = ceilDiv(count, int64_t{kWidth});
  for (int64_t i = threadIdx.x; i < words; i += kThreads) {
    float sum[kWidth] = {};
    for (int r = 0; r < group.size; ++r) {
      // Past the end of the items a slice holds whatever was there before; that is not stored.
      const uint4 word = __ldcg(reinterpret_cast<const uint4*>(slice(group, r, round) + offset) + i);
      const T* v = reinterpret_cast<const T*>(&word);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum[j] += toFloatDevice(v[j]);
    }
    Vec<T> result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) result.v[j] = convert<T>(sum[j]);
    if (wideOut && (i + 1) * kWidth <= count) {
      reinterpret_cast<Vec<T>*>(out)[i] = result;
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        if (i * kWidth + j < count) out[i * kWidth + j] = result.v[j];
    }
  }
}

// Block b does items [b * chunk, (b + 1) * chunk) of each round; a thread 16 bytes at a time.
template <class T>
__global__ void __launch_bounds__(kThreads) allReduceKernel(const __grid_constant__ Group group, T* x, int64_t n, int64_t chunk, int rounds, bool wideX) {
  exchange(
      group, n, chunk, rounds, [&](char* to, int64_t begin, int64_t count) { copyItems(reinterpret_cast<T*>(to), x + begin, count, wideX); },
      [&](uint32_t round, int64_t begin, int64_t count) { sumSlices(group, round, 0, x + begin, count, wideX); });
}

// As above, of each of the group.size pieces of x [size, n]; a slice holds [size, chunk].
template <class T>
__global__ void __launch_bounds__(kThreads) reduceScatterKernel(const __grid_constant__ Group group, T* out, const T* x, int64_t n, int64_t chunk, int rounds, bool wideX, bool wideOut) {
  exchange(
      group, n, chunk, rounds,
      [&](char* to, int64_t begin, int64_t count) {
        for (int piece = 0; piece < group.size; ++piece) copyItems(reinterpret_cast<T*>(to) + piece * chunk, x + piece * n + begin, count, wideX);
      },
      [&](uint32_t round, int64_t begin, int64_t count) { sumSlices(group, round, group.rank * chunk * int64_t{sizeof(T)}, out + begin, count, wideOut); });
}

// Items are bytes. A block copies its part of each rank's x to out [size, n].
__global__ void __launch_bounds__(kThreads) allGatherKernel(const __grid_constant__ Group group, char* out, const char* x, int64_t n, int64_t chunk, int rounds, bool wideX, bool wideOut) {
  exchange(
      group, n, chunk, rounds, [&](char* to, int64_t begin, int64_t count) { copyItems(to, x + begin, count, wideX); },
      [&](uint32_t round, int64_t begin, int64_t count) {
        for (int r = 0; r < group.size; ++r) copyItems(out + r * n + begin, static_cast<const char*>(slice(group, r, round)), count, wideOut);
      });
}

// Items are bytes. The others copy what `root` left.
__global__ void __launch_bounds__(kThreads) broadcastKernel(const __grid_constant__ Group group, char* x, int64_t n, int64_t chunk, int rounds, int root, bool wideX) {
  exchange(
      group, n, chunk, rounds,
      [&](char* to, int64_t begin, int64_t count) {
        if (group.rank == root) copyItems(to, static_cast<const char*>(x + begin), count, wideX);
      },
      [&](uint32_t round, int64_t begin, int64_t count) {
        if (group.rank != root) copyItems(x + begin, static_cast<const char*>(slice(group, root, round)), count, wideX);
      });
}

template <class K>
void load(K* kernel) {
  cudaFuncAttributes attributes{};
  KVASIR_CUDA(cudaFuncGetAttributes(&attributes, kernel));
}

template <class T>
void loadReductions() {
  load(allReduceKernel<T>);
  load(reduceScatterKernel<T>);
}

}  // namespace

void allReduce(const Group& group, cudaStream_t stream, void* x, int64_t n, DType dtype) {
  dispatchFloat(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Deal d = deal(n, sizeof(T), 1);
    allReduceKernel<<<d.blocks, kThreads, 0, stream>>>(group, static_cast<T*>(x), n, d.chunk, d.rounds, wide(x));
  });
}

void reduceScatter(const Group& group, cudaStream_t stream, void* out, const void* x, int64_t n, DType dtype) {
  dispatchFloat(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Deal d = deal(n, sizeof(T), group.size);
    const bool wideX = wide(x) && n * int64_t{sizeof(T)} % 16 == 0;  // every piece
    reduceScatterKernel<<<d.blocks, kThreads, 0, stream>>>(group, static_cast<T*>(out), static_cast<const T*>(x), n, d.chunk, d.rounds, wideX, wide(out));
  });
}

void allGather(const Group& group, cudaStream_t stream, void* out, const void* x, int64_t bytes) {
  const Deal d = deal(bytes, 1, 1);
  allGatherKernel<<<d.blocks, kThreads, 0, stream>>>(group, static_cast<char*>(out), static_cast<const char*>(x), bytes, d.chunk, d.rounds, wide(x),
                                                    wide(out) && bytes % 16 == 0);
}

void broadcast(const Group& group, cudaStream_t stream, void* x, int64_t bytes, int root) {
  const Deal d = deal(bytes, 1, 1);
  broadcastKernel<<<d.blocks, kThreads, 0, stream>>>(group, static_cast<char*>(x), bytes, d.chunk, d.rounds, root, wide(x));
}

void loadKernels() {
  loadReductions<float>();
  loadReductions<__half>();
  loadReductions<__nv_bfloat16>();
  load(allGatherKernel);
  load(broadcastKernel);
}

}  // namespace kvasir::cuda::local
