// What happens to counts and logits before a draw. Token ids outside the vocabulary and state rows that do not exist are skipped (the CPU
// backend reports them): the host never sees these indices.
#include <algorithm>

#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int32_t kPromptBit = 1 << 30;
constexpr int kThreads = 256;
constexpr int kPerThread = 16;  // tokens of samplingPenalties
constexpr int kRowThreads = 1024;

unsigned blocksFor(int64_t n, int64_t perBlock) { return static_cast<unsigned>((n + perBlock - 1) / perBlock); }

// One thread per id. target: counts [vocab] of a state row.
__global__ void markPromptKernel(int32_t* target, int64_t vocab, const int32_t* ids, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n && ids[i] >= 0 && ids[i] < vocab) target[ids[i]] = kPromptBit;
}

__global__ void countOutputKernel(int32_t* target, int64_t vocab, const int32_t* ids, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n && ids[i] >= 0 && ids[i] < vocab) atomicAdd(&target[ids[i]], 1);
}

struct PenaltyArgs {
  float* logits;
  const int32_t* counts;
  const float* params;
  const int32_t* rows;
  int64_t logitStride, countStride, paramStride, numStates, vocab;
};

// Block (x, y): kThreads * kPerThread tokens of row y of logits [numRows, vocab]. Rounds after every operation, as the CPU does.
__global__ void __launch_bounds__(kThreads) penaltiesKernel(const PenaltyArgs a) {
  const int64_t r = blockIdx.y, state = a.rows[r];
  if (state < 0 || state >= a.numStates) return;
  const float* p = a.params + state * a.paramStride;
  const float repetition = p[4], presence = p[5], frequency = p[6];
  if (repetition == 1.0f && presence == 0.0f && frequency == 0.0f) return;
  const int32_t* counts = a.counts + state * a.countStride;
  float* logits = a.logits + r * a.logitStride;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads * kPerThread) + threadIdx.x;
  int32_t seen[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) seen[j] = first + j * kThreads < a.vocab ? counts[first + j * kThreads] : 0;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    if (seen[j] == 0) continue;
    const float outputs = static_cast<float>(seen[j] & (kPromptBit - 1));
    float x = logits[first + j * kThreads];
    x = x > 0 ? __fdiv_rn(x, repetition) : __fmul_rn(x, repetition);
    if (outputs > 0) x = __fsub_rn(__fsub_rn(x, __fmul_rn(frequency, outputs)), presence);
    logits[first + j * kThreads] = x;
  }
}

// One block, 1024 ids at a time. The first of equal ids in a chunk adds all their values in order, so that the sum is always the same.
__global__ void __launch_bounds__(kRowThreads) biasKernel(float* logits, int64_t vocab, const int32_t* ids, const float* values, int64_t n) {
  __shared__ int32_t chunkIds[kRowThreads];
  __shared__ float chunkValues[kRowThreads];
  const int me = static_cast<int>(threadIdx.x);
  for (int64_t begin = 0; begin < n; begin += kRowThreads) {
    const int size = static_cast<int>(n - begin < kRowThreads ? n - begin : kRowThreads);
    if (me < size) {
      chunkIds[me] = ids[begin + me];
      chunkValues[me] = values[begin + me];
    }
    __syncthreads();
    const int32_t id = me < size ? chunkIds[me] : -1;
    bool owner = id >= 0 && id < vocab;
    for (int i = 0; owner && i < me; ++i) owner = chunkIds[i] != id;
    if (owner) {
      float x = logits[id];
      for (int i = me; i < size; ++i)
        if (chunkIds[i] == id) x += chunkValues[i];
      logits[id] = x;
    }
    __syncthreads();  // the chunk is overwritten, and logits are read again
  }
}

__global__ void dropKernel(float* logits, int64_t vocab, const int32_t* ids, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n && ids[i] >= 0 && ids[i] < vocab) logits[ids[i]] = -INFINITY;
}

// One block per call: saves the kept logits in scratch [n], clears the row, puts them back.
__global__ void __launch_bounds__(kRowThreads) keepKernel(float* logits, int64_t vocab, const int32_t* ids, int64_t n, float* scratch) {
  for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
    if (ids[i] >= 0 && ids[i] < vocab) scratch[i] = logits[ids[i]];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < vocab; i += kRowThreads) logits[i] = -INFINITY;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
    if (ids[i] >= 0 && ids[i] < vocab) logits[ids[i]] = scratch[i];
}

}  // namespace

void samplingCountPrompt(CudaStream& stream, const Tensor& counts, int64_t row, const Tensor& ids) {
  int32_t* target = counts.ptr<int32_t>() + row * counts.strides[0];
  const int64_t vocab = counts.dims[1], n = ids.dims[0];
  stream.launch("samplingCountPrompt", [&](cudaStream_t s) {
    KVASIR_CUDA(cudaMemsetAsync(target, 0, static_cast<size_t>(vocab) * sizeof(int32_t), s));
    if (n > 0) markPromptKernel<<<blocksFor(n, kThreads), kThreads, 0, s>>>(target, vocab, ids.ptr<int32_t>(), n);
  });
}

void samplingCountOutput(CudaStream& stream, const Tensor& counts, int64_t row, const Tensor& ids) {
  int32_t* target = counts.ptr<int32_t>() + row * counts.strides[0];
  const int64_t vocab = counts.dims[1], n = ids.dims[0];
  if (n == 0) return;
  stream.launch("samplingCountOutput", [&](cudaStream_t s) {
    countOutputKernel<<<blocksFor(n, kThreads), kThreads, 0, s>>>(target, vocab, ids.ptr<int32_t>(), n);
  });
}

void samplingPenalties(CudaStream& stream, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows) {
  constexpr int64_t kMostRows = 65535;  // of a grid's y dimension
  const int64_t vocab = logits.dims[1];
  stream.launch("samplingPenalties", [&](cudaStream_t s) {
    for (int64_t r = 0; r < logits.dims[0]; r += kMostRows) {
      const PenaltyArgs args{logits.ptr<float>() + r * logits.strides[0], counts.ptr<int32_t>(), params.ptr<float>(), rows.ptr<int32_t>() + r,
                             logits.strides[0], counts.strides[0], params.strides[0], params.dims[0], vocab};
      const dim3 grid(blocksFor(vocab, kThreads * kPerThread), static_cast<unsigned>(std::min(kMostRows, logits.dims[0] - r)));
      penaltiesKernel<<<grid, kThreads, 0, s>>>(args);
    }
  });
}

void samplingBias(CudaStream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values) {
  if (ids.dims[0] == 0) return;
  float* row = logits.ptr<float>() + logitRow * logits.strides[0];
  stream.launch("samplingBias", [&](cudaStream_t s) {
    biasKernel<<<1, kRowThreads, 0, s>>>(row, logits.dims[1], ids.ptr<int32_t>(), values.ptr<float>(), ids.dims[0]);
  });
}

void samplingMask(CudaStream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep) {
  const int64_t vocab = logits.dims[1], n = ids.dims[0];
  float* row = logits.ptr<float>() + logitRow * logits.strides[0];
  if (!keep && n == 0) return;
  // As large as for any list without repetitions, so that the scratch seldom grows.
  auto* scratch = keep ? static_cast<float*>(stream.scratch(std::max(n, vocab) * static_cast<int64_t>(sizeof(float)))) : nullptr;
  stream.launch("samplingMask", [&](cudaStream_t s) {
    if (keep) keepKernel<<<1, kRowThreads, 0, s>>>(row, vocab, ids.ptr<int32_t>(), n, scratch);
    else dropKernel<<<blocksFor(n, kThreads), kThreads, 0, s>>>(row, vocab, ids.ptr<int32_t>(), n);
  });
}

}  // namespace kvasir::cuda
