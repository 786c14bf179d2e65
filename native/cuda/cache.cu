#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/cache_fp8.h"
#include "cuda/cache_layout.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"
#include "cuda/rope_cache.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

struct Strides {
  int64_t kToken, kHead, vToken, vHead;  // in words
};

// Block (token, part) of [words of a row][rows]: thread (x, y) moves word x, x + blockDim.x, .. of one row of the token, where rows
// 0 .. numKvHeads - 1 are keys and the next numKvHeads are values.
//   cache: see cache_layout.cuh, in words; k, v [numTokens, numKvHeads, words]; slots [numTokens].
template <class Word>
__global__ void __launch_bounds__(kThreads) kvCacheWriteKernel(Word* cache, int64_t numSlots, const Word* k, const Word* v, Strides strides,
                                                               const int64_t* slots, int numKvHeads, int words) {
  letNextStart();
  waitForPrevious();
  const int64_t slot = slots[blockIdx.x];
  if (slot < 0 || slot >= numSlots) return;  // padding; a slot outside the cache must not corrupt memory
  const int row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= 2 * numKvHeads) return;
  const bool isKey = row < numKvHeads;
  const int head = isKey ? row : row - numKvHeads;
  const Word* from = isKey ? k + blockIdx.x * strides.kToken + head * strides.kHead : v + blockIdx.x * strides.vToken + head * strides.vHead;
  Word* to = cache + keyRow(slot, head, numKvHeads, words) + (isKey ? 0 : valueOffset(numKvHeads, words));
  for (int i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

}  // namespace

void kvCacheWrite(CudaStream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale) {
  if (k.numel() == 0) return;
  if (kvCache.dtype == DType::Float8E4M3) return kvCacheWriteFp8(stream, kvCache, k, v, slotMapping, kScale, vScale);
  if (const auto rope = stream.take<PendingRope>([&](const PendingRope& op) { return joinsRope(op, kvCache, k, v); }))
    return ropeKvCacheWrite(stream, *rope, kvCache, v, slotMapping);
  const int64_t size = elementSize(k.dtype), rowBytes = k.dims[2] * size;
  const int access = accessBytes({addressOf(kvCache), addressOf(k), addressOf(v), rowBytes, k.strides[0] * size, k.strides[1] * size,
                                  v.strides[0] * size, v.strides[1] * size});
  stream.launch("kvCacheWrite", [&](cudaStream_t s) {
    dispatchWord(access, [&](auto* null) {
      using Word = std::remove_pointer_t<decltype(null)>;
      const auto inWords = [&](int64_t elements) { return elements * size / static_cast<int64_t>(sizeof(Word)); };
      const int words = static_cast<int>(inWords(k.dims[2])), heads = static_cast<int>(k.dims[1]);
      const int across = std::min(words, kThreads), rows = kThreads / across;
      const dim3 grid(static_cast<unsigned>(k.dims[0]), static_cast<unsigned>(ceilDiv(2 * heads, rows)));
      launchChained({s, stream.overlaps()}, kvCacheWriteKernel<Word>, grid, dim3(across, rows), kvCache.ptr<Word>(), kvCache.dims[0] * kPageTokens,
                    k.ptr<Word>(), v.ptr<Word>(), Strides{inWords(k.strides[0]), inWords(k.strides[1]), inWords(v.strides[0]), inWords(v.strides[1])},
                    slotMapping.ptr<int64_t>(), heads, words);
    });
  });
}

}  // namespace kvasir::cuda
