// The largest logits of a rank's part of the vocabulary, as pairs of a value and a token id.
#include "cuda/kernels.h"
#include "cuda/sampling_list.cuh"

namespace kvasir::cuda {

namespace {

using namespace sampling;

struct TopArgs {
  const float* logits;
  int32_t* out;
  int64_t logitStride, outStride;
  uint32_t numValid, k;
  int32_t firstId;
};

__device__ __forceinline__ void writePair(const TopArgs& a, int64_t r, uint32_t i, float value, uint32_t column) {
  int32_t* pair = a.out + r * a.outStride + 2 * i;
  pair[0] = __float_as_int(value);
  pair[1] = value > -INFINITY ? a.firstId + static_cast<int32_t>(column) : -1;  // no token for NaN either
}

// Places from `begin` on, for which there is no token. All threads of the block.
__device__ __forceinline__ void writeNone(const TopArgs& a, int64_t r, uint32_t begin) {
  for (uint32_t i = begin + threadIdx.x; i < a.k; i += kThreads) writePair(a, r, i, -INFINITY, 0);
}

// One block per row of logits [numRows, numValid] with k > 1: a pass for what each thread sees first, one that collects, and a sort.
__global__ void __launch_bounds__(kThreads, 1) topKernel(const TopArgs a) {
  __shared__ Word list[kListSize];
  __shared__ uint32_t size;
  const int64_t r = blockIdx.x;
  const float* x = a.logits + r * a.logitStride;
  Best best;
  bool nan = false;
  forRow(x, a.numValid, [&](float value, uint32_t column) {
    nan |= value != value;
    best.see(value, column);
  });
  if (__syncthreads_or(nan)) {
    if (threadIdx.x == 0) writePair(a, r, 0, quietNan(), 0);
    writeNone(a, r, 1);
    return;
  }
  const Word bound = topBound(best, a.numValid, a.k, list);
  if (threadIdx.x == 0) size = 0;
  __syncthreads();
  forRow(x, a.numValid, [&](float value, uint32_t column) { collect(value, column, bound, list, &size); });
  const uint32_t count = min(sortList(x, a.numValid, a.k, bound, list, &size), a.k);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) writePair(a, r, i, x[rankId(list[i])], rankId(list[i]));
  writeNone(a, r, count);
}

// One block per row, k = 1: a pass for the maximum.
__global__ void __launch_bounds__(kThreads, 1) largestKernel(const TopArgs a) {
  const int64_t r = blockIdx.x;
  const float* x = a.logits + r * a.logitStride;
  Best best;
  bool nan = false;
  forRow(x, a.numValid, [&](float value, uint32_t column) {
    nan |= value != value;
    best.see(value, column);
  });
  nan = __syncthreads_or(nan);
  const Word first = blockReduce(best.rank(), Least());
  if (threadIdx.x != 0) return;
  if (nan || first == kNoRank) writePair(a, r, 0, nan ? quietNan() : -INFINITY, 0);
  else writePair(a, r, 0, x[rankId(first)], rankId(first));
}

}  // namespace

void samplingTop(CudaStream& stream, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid) {
  const int64_t numRows = logits.dims[0];
  if (numRows == 0) return;
  const TopArgs args{
      .logits = logits.ptr<float>(),
      .out = out.ptr<int32_t>(),
      .logitStride = logits.strides[0],
      .outStride = out.strides[0],
      .numValid = static_cast<uint32_t>(numValid),
      .k = static_cast<uint32_t>(out.dims[1] / 2),
      .firstId = static_cast<int32_t>(firstId),
  };
  stream.launch("samplingTop", [&](cudaStream_t s) {
    const auto kernel = args.k == 1 ? largestKernel : topKernel;
    kernel<<<static_cast<unsigned>(numRows), kThreads, 0, s>>>(args);
  });
}

}  // namespace kvasir::cuda
