// Rotary position embedding and the cache write after it as one kernel (see pending.h).
#include "cuda/rope_cache.h"

#include <cuda_runtime.h>

#include "cuda/cache_layout.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"
#include "cuda/overlap.h"
#include "cuda/rope.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

struct Rotation {
  const void* positions;
  bool wide;  // int64
  const float* cosSin;
  int64_t stride, maxPosition;
  int half;
};

// [numBlocks, 2, numKvHeads, 16, headDim], see cache_layout.cuh.
struct Pages {
  void* data;
  int64_t numSlots;
  const int64_t* slots;  // [numTokens]
  int headDim;
};

// Block (token, part) of [units of a head][heads]: thread (x, y) has packs x, x + blockDim.x, .. of one head of the token, where the heads of
// q come first, then those of k, then those of v. Rotates q and k in place, as ropeKernel does, and stores k and v in the token's page, as
// kvCacheWriteKernel does; a token without a slot (padding) is only rotated, one whose position is not in the table only stored.
//   q [numTokens, q.count, headDim], k and v [numTokens, k.count, headDim]; rows of 16-byte vectors.
template <class T, int N, bool kNeox, bool kNorm>
__global__ void __launch_bounds__(kThreads) ropeCacheKernel(Heads q, Heads k, Heads v, const Rotation r, const Pages pages, const HeadNorm norm) {
  using P = Pack<T, N>;
  letNextStart();
  waitForPrevious();
  const int64_t token = blockIdx.x;
  const int index = blockIdx.y * blockDim.y + threadIdx.y;
  if (index >= q.count + 2 * k.count) return;
  const float* row = cosSinRow(r.cosSin, r.stride, r.maxPosition, r.positions, r.wide, token);
  const int64_t slot = pages.slots[token];
  const bool isQuery = index < q.count, isValue = index >= q.count + k.count;
  const bool stored = !isQuery && slot >= 0 && slot < pages.numSlots;
  const int kvHead = isValue ? index - q.count - k.count : index - q.count;
  T* head = isQuery ? q.at<T>(token, index) : isValue ? v.at<T>(token, kvHead) : k.at<T>(token, kvHead);
  T* page = stored ? static_cast<T*>(pages.data) + keyRow(slot, kvHead, k.count, pages.headDim) + (isValue ? valueOffset(k.count, pages.headDim) : 0) : nullptr;
  if (row && !isValue) {
    const T* weight = static_cast<const T*>(isQuery ? norm.qWeight : norm.kWeight);
    rotateHead<T, N, kNeox, kNorm>(head, page, row, r.half, pages.headDim, weight, norm.eps, norm.gemma);
  } else if (stored) {
    for (int i = threadIdx.x; i < pages.headDim / N; i += blockDim.x) reinterpret_cast<P*>(page)[i] = reinterpret_cast<const P*>(head)[i];
  }
}

template <class T, int N>
auto kernelFor(bool isNeox, bool norm) {
  if (norm) return isNeox ? ropeCacheKernel<T, N, true, true> : ropeCacheKernel<T, N, false, true>;
  return isNeox ? ropeCacheKernel<T, N, true, false> : ropeCacheKernel<T, N, false, false>;
}

}  // namespace

bool joinsRope(const PendingRope& op, const Tensor& kvCache, const Tensor& k, const Tensor& v) {
  for (int i = 0; i < 3; ++i)
    if (k.dims[i] != op.k.dims[i] || (k.dims[i] > 1 && k.strides[i] != op.k.strides[i])) return false;
  if (k.data != op.k.data || k.dtype != op.k.dtype) return false;
  const int64_t rowBytes = k.dims[2] * elementSize(k.dtype);
  return accessBytes({addressOf(kvCache), rowBytes}) == 16 && vectorHeads(v) && apart(v, op.q) && apart(v, op.k) && apart(kvCache, op.q) &&
         apart(kvCache, op.k) && apart(kvCache, v);
}

void ropeKvCacheWrite(CudaStream& stream, const PendingRope& op, const Tensor& kvCache, const Tensor& v, const Tensor& slotMapping) {
  const int half = static_cast<int>(op.cosSin.dims[1] / 2), headDim = static_cast<int>(v.dims[2]);
  const Rotation rotation{op.positions.data, op.positions.dtype == DType::Int64, op.cosSin.ptr<float>(), op.cosSin.strides[0], op.cosSin.dims[0], half};
  const Pages pages{kvCache.data, kvCache.dims[0] * kPageTokens, slotMapping.ptr<int64_t>(), headDim};
  stream.launch(op.norms ? "normRope+kvCacheWrite" : "rope+kvCacheWrite", [&](cudaStream_t s) {
    dispatchFloat(op.q.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = kernelFor<T, N>(op.isNeox, op.norms.has_value());
      // As many threads across as a rotated head has units: values take two rounds.
      const int across = threadsAcross(half / N, op.norms.has_value(), kThreads), rows = kThreads / across;
      const dim3 grid(static_cast<unsigned>(v.dims[0]), static_cast<unsigned>(ceilDiv(op.q.dims[1] + 2 * v.dims[1], rows)));
      launchChained({s, stream.overlaps()}, kernel, grid, dim3(across, rows), headsOf(op.q), headsOf(op.k), headsOf(v), rotation, pages,
                    headNormOf(op.norms));
    });
  });
}

}  // namespace kvasir::cuda
