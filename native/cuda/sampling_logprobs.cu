// Log-probabilities and ranks of tokens, and the most probable tokens of a row.
#include <algorithm>
#include <bit>

#include "cuda/kernels.h"
#include "cuda/sampling_row.cuh"

namespace kvasir::cuda {

namespace {

using namespace sampling;

constexpr uint32_t kListSize = 4096;  // rank words sorted in shared memory
// Above this many tokens of a vocabulary larger than the list, the whole row is sorted in global memory, in this many rows at once.
constexpr int64_t kFastTop = 512, kSortSlots = 16;

struct LogprobArgs {
  const float* logits;
  const int32_t* targets;
  float* outLogprob;
  int32_t* outRank;
  int32_t* topIds;
  float* topLogprobs;
  double* logSums;  // [numRows], for the sort of whole rows; may be null
  int64_t logitStride, topIdStride, topLogprobStride, numRows;
  uint32_t vocab, topK;  // topK = 0: none, or left to sortKernel
  float one;
};

__device__ __forceinline__ float quietNan() { return __int_as_float(0x7fc00000); }

// One step of a bitonic sort: pairs `stride` apart within words[0, count), which lie at `base` of the whole sequence.
__device__ __forceinline__ void bitonicStep(Word* words, uint32_t count, uint32_t base, uint32_t size, uint32_t stride) {
  for (uint32_t t = threadIdx.x; t < count / 2; t += kThreads) {
    const uint32_t i = 2 * t - (t & (stride - 1));
    const Word a = words[i], b = words[i + stride];
    if ((a > b) == (((base + i) & size) == 0)) {
      words[i] = b;
      words[i + stride] = a;
    }
  }
  __syncthreads();
}

// Sorts words[0, count), count a power of two; all threads of the block. Starts and ends with a barrier.
__device__ __forceinline__ void bitonicSort(Word* words, uint32_t count, uint32_t base) {
  __syncthreads();
  for (uint32_t size = 2; size <= count; size *= 2)
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) bitonicStep(words, count, base, size, stride);
}

__device__ __forceinline__ void writeTop(const LogprobArgs& a, const float* x, int64_t r, const Word* sorted, uint32_t count, uint32_t k, double logSum) {
  for (uint32_t i = threadIdx.x; i < k; i += kThreads) {
    const bool used = i < count && sorted[i] != kNoRank;
    const uint32_t id = rankId(sorted[used ? i : 0]);
    a.topIds[r * a.topIdStride + i] = used ? static_cast<int32_t>(id) : -1;
    a.topLogprobs[r * a.topLogprobStride + i] = used ? static_cast<float>(static_cast<double>(x[id]) - logSum) : quietNan();
  }
}

__device__ __forceinline__ Word rankOf(float value, uint32_t id) { return value == value ? rankWord(value, id) : kNoRank; }

// A rank word with at least k words up to it (or all): the k-th of each thread's first. Rarely many more than k tokens come before it.
__device__ __forceinline__ Word topBound(const Best& best, uint32_t vocab, uint32_t k, Word* list) {
  if (vocab <= kListSize) return kNoRank - 1;
  list[threadIdx.x] = best.rank();
  bitonicSort(list, kThreads, 0);
  const Word bound = list[k - 1];
  __syncthreads();  // the list is used again
  return bound == kNoRank ? kNoRank - 1 : bound;
}

// The smallest word with k rank words up to it, by bisection: for rows whose most probable tokens all fall to few threads.
__device__ __noinline__ Word exactBound(const float* x, uint32_t n, uint32_t k, Word high) {
  Word low = 0;
  while (low < high) {
    const Word middle = low + (high - low) / 2;
    Word count = 0;
    forRow(x, n, [&](float value, uint32_t id) { count += rankOf(value, id) <= middle; });
    if (blockReduce(count, Sum()) >= k) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Collects the words up to `bound`; returns their number, of which those that fit are in the list.
__device__ __forceinline__ void collect(float value, uint32_t id, Word bound, Word* list, uint32_t* size) {
  const Word rank = rankOf(value, id);
  if (rank > bound) return;
  const uint32_t place = atomicAdd(size, 1u);
  if (place < kListSize) list[place] = rank;
}

// Sorts the collected words; returns how many there are.
__device__ __forceinline__ uint32_t sortList(const float* x, const LogprobArgs& a, Word bound, Word* list, uint32_t* size) {
  __syncthreads();
  if (*size > kListSize) {
    bound = exactBound(x, a.vocab, a.topK, bound);
    if (threadIdx.x == 0) *size = 0;
    __syncthreads();
    forRow(x, a.vocab, [&](float value, uint32_t id) { collect(value, id, bound, list, size); });
    __syncthreads();
  }
  const uint32_t count = *size;
  uint32_t padded = 2;
  while (padded < count) padded *= 2;
  for (uint32_t i = count + threadIdx.x; i < padded; i += kThreads) list[i] = kNoRank;
  bitonicSort(list, padded, 0);
  return count;
}

// One block per row of logits [numRows, vocab]: a pass for maximum, NaN and rank, one for the sum and the collection of the top words.
__global__ void __launch_bounds__(kThreads, 1) logprobsKernel(const LogprobArgs a) {
  __shared__ Word list[kListSize];
  __shared__ uint32_t size;
  const int64_t r = blockIdx.x;
  const float* x = a.logits + r * a.logitStride;
  const int32_t target = a.targets[r];
  const bool known = target >= 0 && static_cast<uint32_t>(target) < a.vocab;
  const float targetValue = known ? x[target] : quietNan();
  Best best;
  bool nan = false;
  Word greater = 0;
  forRow(x, a.vocab, [&](float value, uint32_t id) {
    nan |= value != value;
    greater += value > targetValue;
    best.see(value, id);
  });
  nan = __syncthreads_or(nan);
  greater = blockReduce(greater, Sum());
  const Word first = blockReduce(best.rank(), Least());
  const float max = first == kNoRank ? -INFINITY : rankValue(first);
  const bool bad = nan || isinf(max);
  const Word bound = a.topK ? topBound(best, a.vocab, a.topK, list) : 0;
  if (threadIdx.x == 0) size = 0;
  __syncthreads();
  Word sum = 0;
  forRow(x, a.vocab, [&](float value, uint32_t id) {
    if (!bad) sum += fixedExp(value - max, a.one);
    if (a.topK) collect(value, id, bound, list, &size);
  });
  sum = blockReduce(sum, Sum());
  const double logSum = bad ? static_cast<double>(quietNan()) : static_cast<double>(max) + log(static_cast<double>(sum) / static_cast<double>(a.one));
  if (threadIdx.x == 0) {
    a.outLogprob[r] = known ? static_cast<float>(static_cast<double>(targetValue) - logSum) : quietNan();
    a.outRank[r] = known ? static_cast<int32_t>(1 + greater) : 0;
    if (a.logSums) a.logSums[r] = logSum;
  }
  if (a.topK) writeTop(a, x, r, list, sortList(x, a, bound, list, &size), a.topK, logSum);
}

// The k most probable tokens by sorting whole rows: block b takes rows b, b + gridDim.x, ... and has words [padded] in global memory;
// all steps within kListSize words run in shared memory.
__global__ void __launch_bounds__(kThreads, 1) sortKernel(const LogprobArgs a, Word* scratch, uint32_t padded, uint32_t k) {
  __shared__ Word list[kListSize];
  Word* words = scratch + static_cast<int64_t>(blockIdx.x) * padded;
  for (int64_t r = blockIdx.x; r < a.numRows; r += gridDim.x) {
    const float* x = a.logits + r * a.logitStride;
    for (uint32_t base = 0; base < padded; base += kListSize) {
      for (uint32_t i = threadIdx.x; i < kListSize; i += kThreads) list[i] = base + i < a.vocab ? rankOf(x[base + i], base + i) : kNoRank;
      bitonicSort(list, kListSize, base);
      for (uint32_t i = threadIdx.x; i < kListSize; i += kThreads) words[base + i] = list[i];
      __syncthreads();
    }
    for (uint32_t length = 2 * kListSize; length <= padded && length != 0; length *= 2) {
      for (uint32_t stride = length / 2; stride >= kListSize; stride /= 2) bitonicStep(words, padded, 0, length, stride);
      for (uint32_t base = 0; base < padded; base += kListSize) {
        for (uint32_t i = threadIdx.x; i < kListSize; i += kThreads) list[i] = words[base + i];
        __syncthreads();
        for (uint32_t stride = kListSize / 2; stride > 0; stride /= 2) bitonicStep(list, kListSize, base, length, stride);
        for (uint32_t i = threadIdx.x; i < kListSize; i += kThreads) words[base + i] = list[i];
        __syncthreads();
      }
    }
    writeTop(a, x, r, words, padded, k, a.logSums[r]);
    __syncthreads();  // words are used again
  }
}

}  // namespace

void samplingLogprobs(CudaStream& stream, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds, const MaybeTensor& topLogprobs,
                      const Tensor& logits, const Tensor& targets) {
  const int64_t numRows = logits.dims[0], vocab = logits.dims[1], k = topIds ? topIds->dims[1] : 0;
  if (numRows == 0) return;
  LogprobArgs args{
      .logits = logits.ptr<float>(),
      .targets = targets.ptr<int32_t>(),
      .outLogprob = outLogprob.ptr<float>(),
      .outRank = outRank.ptr<int32_t>(),
      .topIds = topIds ? topIds->ptr<int32_t>() : nullptr,
      .topLogprobs = topLogprobs ? topLogprobs->ptr<float>() : nullptr,
      .logSums = nullptr,
      .logitStride = logits.strides[0],
      .topIdStride = topIds ? topIds->strides[0] : 0,
      .topLogprobStride = topLogprobs ? topLogprobs->strides[0] : 0,
      .numRows = numRows,
      .vocab = static_cast<uint32_t>(vocab),
      .topK = static_cast<uint32_t>(k),
      .one = fixedOne(vocab),
  };
  const bool sortRows = k > kFastTop && vocab > kListSize;
  const int64_t padded = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(vocab)));
  const int64_t slots = std::min(kSortSlots, numRows);
  Word* words = nullptr;
  if (sortRows) {  // scratch: words [slots, padded], then the sums [numRows]
    words = static_cast<Word*>(stream.scratch((kSortSlots * padded + numRows) * static_cast<int64_t>(sizeof(Word))));
    args.logSums = reinterpret_cast<double*>(words + kSortSlots * padded);
    args.topK = 0;
  }
  stream.launch("samplingLogprobs", [&](cudaStream_t s) {
    logprobsKernel<<<static_cast<unsigned>(numRows), kThreads, 0, s>>>(args);
    if (sortRows)
      sortKernel<<<static_cast<unsigned>(slots), kThreads, 0, s>>>(args, words, static_cast<uint32_t>(padded), static_cast<uint32_t>(k));
  });
}

}  // namespace kvasir::cuda
