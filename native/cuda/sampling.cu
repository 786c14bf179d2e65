// Drawing tokens. Indices that do not exist are skipped here: a row outside the state is treated as padding (the CPU backend reports it).
#include "cuda/kernels.h"
#include "cuda/sampling_draw.cuh"

namespace kvasir::cuda {

namespace {

using namespace sampling;

// Temperatures below this are greedy, as in vLLM (_SAMPLING_EPS).
constexpr float kGreedyBelow = 1e-5f;

// Pairs of a value and a token id in a row of candidates, which are copied to shared memory; ops/sampling.cc knows it too.
constexpr uint32_t kMostCandidates = 2048;

// What drawing reads of its rows' requests.
struct RequestArgs {
  const float* params;
  const int32_t* seeds;
  const int32_t* positions;
  const int32_t* rows;
  int64_t paramStride, seedStride, numStates;
};

struct SampleArgs {
  const float* logits;
  RequestArgs requests;
  int32_t* out;
  int32_t* counts;  // may be null
  int64_t logitStride, countStride;
  uint32_t vocab;
  float one;  // fixedOne(vocab)
};

struct SampleTopArgs {
  const int32_t* candidates;
  RequestArgs requests;
  int32_t* out;
  int64_t candidateStride;
  uint32_t n;
  float one;  // fixedOne(n)
};

// A row of `params`.
struct Params {
  float temperature, topP, minP, topK;
  bool hasPenalties;

  __device__ __forceinline__ explicit Params(const float* p)
      : temperature(p[0]), topP(p[1]), minP(p[2]), topK(p[3]), hasPenalties(p[4] != 1.0f || p[5] != 0.0f || p[6] != 0.0f) {}
};

__device__ __forceinline__ DrawKey drawKey(const RequestArgs& a, int64_t r, int64_t state) {
  const int32_t* seed = a.seeds + state * a.seedStride;
  return {static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1]), static_cast<uint32_t>(a.positions[r])};
}

// The state row of row r, or -1 for padding.
__device__ __forceinline__ int64_t stateOf(const RequestArgs& a, int64_t r) {
  const int64_t state = a.rows[r];
  return state < a.numStates ? state : -1;
}

// The largest key that min-p, top-k and top-p leave, in this order.
__device__ __forceinline__ uint32_t filteredKey(const Row& row, const Params& p, float one) {
  uint32_t bound = kKeyOfInfinity;
  if (p.minP > 0) bound = __float_as_uint(fmaxf(static_cast<float>(-log(static_cast<double>(p.minP))), 0.0f));
  if (p.topK >= 1 && p.topK < static_cast<float>(row.n)) bound = lastKey(row, bound, CountWeight{static_cast<Word>(p.topK)});
  if (p.topP < 1) bound = lastKey(row, bound, MassWeight{static_cast<double>(p.topP), one});
  return bound;
}

__device__ __forceinline__ int32_t sampleRow(const SampleArgs& a, const float* x, const Params& p, DrawKey key) {
  Best best;
  bool nan = false;
  forRow(x, a.vocab, [&](float value, uint32_t id) {
    nan |= value != value;
    best.see(value, id);
  });
  nan = __syncthreads_or(nan);
  const Word first = blockReduce(best.rank(), Least());
  if (nan || first == kNoRank) return -1;
  const float max = rankValue(first);
  if (!(p.temperature >= kGreedyBelow) || isinf(max)) return static_cast<int32_t>(rankId(first));
  const Row row{x, a.vocab, max, 1.0f / p.temperature};
  return static_cast<int32_t>(draw(row, filteredKey(row, p, a.one), key));
}

// One block per row of logits [numRows, vocab], which stays in L2: a pass for maximum and NaN, usually one per filter in use, and one
// that draws.
__global__ void __launch_bounds__(kThreads, 1) sampleKernel(const SampleArgs a) {
  const int64_t r = blockIdx.x, state = stateOf(a.requests, r);
  if (state < 0) {
    if (threadIdx.x == 0) a.out[r] = -1;
    return;
  }
  const Params p(a.requests.params + state * a.requests.paramStride);
  const int32_t id = sampleRow(a, a.logits + r * a.logitStride, p, drawKey(a.requests, r, state));
  if (threadIdx.x != 0) return;
  a.out[r] = id;
  if (a.counts && id >= 0 && p.hasPenalties) atomicAdd(&a.counts[state * a.countStride + id], 1);
}

// As sampleRow, from pairs [n] that are in any order. values: shared memory [n].
__device__ __forceinline__ int32_t samplePairs(const SampleTopArgs& a, const int32_t* pairs, float* values, const Params& p, DrawKey key) {
  Word least = kNoRank;
  bool nan = false;
  for (uint32_t i = threadIdx.x; i < a.n; i += kThreads) {
    const float value = values[i] = __int_as_float(pairs[2 * i]);
    nan |= value != value;
    if (value > -INFINITY) least = min(least, rankWord(value, static_cast<uint32_t>(pairs[2 * i + 1])));
  }
  nan = __syncthreads_or(nan);
  const Word first = blockReduce(least, Least());
  if (nan || first == kNoRank) return -1;
  const float max = rankValue(first);
  if (!(p.temperature >= kGreedyBelow) || isinf(max)) return static_cast<int32_t>(rankId(first));
  const Row row{values, a.n, max, 1.0f / p.temperature};
  return static_cast<int32_t>(drawPair(row, pairs, filteredKey(row, p, a.one), key));
}

// One block per row of candidates [numRows, 2 n].
__global__ void __launch_bounds__(kThreads, 1) sampleTopKernel(const SampleTopArgs a) {
  __shared__ alignas(16) float values[kMostCandidates];
  const int64_t r = blockIdx.x, state = stateOf(a.requests, r);
  int32_t id = -1;
  if (state >= 0) {
    const Params p(a.requests.params + state * a.requests.paramStride);
    id = samplePairs(a, a.candidates + r * a.candidateStride, values, p, drawKey(a.requests, r, state));
  }
  if (threadIdx.x == 0) a.out[r] = id;
}

RequestArgs requestArgs(const Tensor& params, const Tensor& seeds, const Tensor& positions, const Tensor& rows) {
  return {
      .params = params.ptr<float>(),
      .seeds = seeds.ptr<int32_t>(),
      .positions = positions.ptr<int32_t>(),
      .rows = rows.ptr<int32_t>(),
      .paramStride = params.strides[0],
      .seedStride = seeds.strides[0],
      .numStates = params.dims[0],
  };
}

}  // namespace

void sample(CudaStream& stream, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts) {
  const int64_t numRows = logits.dims[0];
  if (numRows == 0) return;
  const SampleArgs args{
      .logits = logits.ptr<float>(),
      .requests = requestArgs(params, seeds, positions, rows),
      .out = outIds.ptr<int32_t>(),
      .counts = counts ? counts->ptr<int32_t>() : nullptr,
      .logitStride = logits.strides[0],
      .countStride = counts ? counts->strides[0] : 0,
      .vocab = static_cast<uint32_t>(logits.dims[1]),
      .one = fixedOne(logits.dims[1]),
  };
  stream.launch("sample", [&](cudaStream_t s) { sampleKernel<<<static_cast<unsigned>(numRows), kThreads, 0, s>>>(args); });
}

void sampleTop(CudaStream& stream, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows) {
  const int64_t numRows = candidates.dims[0], n = candidates.dims[1] / 2;
  if (numRows == 0) return;
  const SampleTopArgs args{
      .candidates = candidates.ptr<int32_t>(),
      .requests = requestArgs(params, seeds, positions, rows),
      .out = outIds.ptr<int32_t>(),
      .candidateStride = candidates.strides[0],
      .n = static_cast<uint32_t>(n),
      .one = fixedOne(n),
  };
  stream.launch("sampleTop", [&](cudaStream_t s) { sampleTopKernel<<<static_cast<unsigned>(numRows), kThreads, 0, s>>>(args); });
}

}  // namespace kvasir::cuda
