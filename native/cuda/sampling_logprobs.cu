// Log-probabilities and ranks of tokens, and the most probable tokens of a row.
#include <algorithm>
#include <bit>

#include "cuda/kernels.h"
#include "cuda/sampling_list.cuh"

namespace kvasir::cuda {

namespace {

using namespace sampling;

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

__device__ __forceinline__ void writeTop(const LogprobArgs& a, const float* x, int64_t r, const Word* sorted, uint32_t count, uint32_t k, double logSum) {
  for (uint32_t i = threadIdx.x; i < k; i += kThreads) {
    const bool used = i < count && sorted[i] != kNoRank;
    const uint32_t id = rankId(sorted[used ? i : 0]);
    a.topIds[r * a.topIdStride + i] = used ? static_cast<int32_t>(id) : -1;
    a.topLogprobs[r * a.topLogprobStride + i] = used ? static_cast<float>(static_cast<double>(x[id]) - logSum) : quietNan();
  }
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
  if (a.topK) writeTop(a, x, r, list, sortList(x, a.vocab, a.topK, bound, list, &size), a.topK, logSum);
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
