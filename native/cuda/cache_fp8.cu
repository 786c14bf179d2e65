#include "cuda/cache_fp8.h"

#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/cache_layout.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/rope.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

// Block (token, part) of [packs of a row][rows]: thread (x, y) rounds packs x, x + blockDim.x, .. of one row of the token, where rows
// 0 .. k.count - 1 are keys and the next k.count are values.
//   cache: see cache_layout.cuh; k, v [numTokens, k.count, headDim], N elements at a time; slots [numTokens].
template <class T, int N>
__global__ void __launch_bounds__(kThreads) kvCacheWriteFp8Kernel(uint8_t* cache, int64_t numSlots, Heads k, Heads v, float kScale, float vScale,
                                                                  const int64_t* slots, int headDim) {
  letNextStart();
  waitForPrevious();
  const int64_t slot = slots[blockIdx.x];
  if (slot < 0 || slot >= numSlots) return;  // padding; a slot outside the cache must not corrupt memory
  const int row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= 2 * k.count) return;
  const bool isKey = row < k.count;
  const int head = isKey ? row : row - k.count;
  const float scale = isKey ? kScale : vScale;
  const auto* from = reinterpret_cast<const Pack<T, N>*>(isKey ? k.at<T>(blockIdx.x, head) : v.at<T>(blockIdx.x, head));
  auto* to = reinterpret_cast<Pack<uint8_t, N>*>(cache + keyRow(slot, head, k.count, headDim) + (isKey ? 0 : valueOffset(k.count, headDim)));
  for (int i = threadIdx.x; i < headDim / N; i += blockDim.x) {
    const Pack<T, N> x = from[i];
    Pack<uint8_t, N> codes;
#pragma unroll
    for (int j = 0; j < N; ++j) codes.v[j] = __nv_cvt_float_to_fp8(__fdiv_rn(toFloatDevice(x.v[j]), scale), __NV_SATFINITE, __NV_E4M3);
    to[i] = codes;
  }
}

}  // namespace

void kvCacheWriteFp8(CudaStream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale) {
  const int headDim = static_cast<int>(k.dims[2]), heads = static_cast<int>(k.dims[1]);
  stream.launch("kvCacheWrite", [&](cudaStream_t s) {
    dispatchFloat(k.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const bool wide = vectorHeads(k) && vectorHeads(v) && headDim % N == 0 && addressOf(kvCache) % N == 0;
      const auto kernel = wide ? kvCacheWriteFp8Kernel<T, N> : kvCacheWriteFp8Kernel<T, 1>;
      const int across = std::min(wide ? headDim / N : headDim, kThreads), rows = kThreads / across;
      const dim3 grid(static_cast<unsigned>(k.dims[0]), static_cast<unsigned>(ceilDiv(2 * heads, rows)));
      launchChained({s, stream.overlaps()}, kernel, grid, dim3(across, rows), kvCache.ptr<uint8_t>(), kvCache.dims[0] * kPageTokens, headsOf(k), headsOf(v),
                    static_cast<float>(kScale), static_cast<float>(vScale), slotMapping.ptr<int64_t>(), headDim);
    });
  });
}

}  // namespace kvasir::cuda
