// Routing of tokens to experts: the choice, the sorting by expert, and the sum of what the experts gave.
#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kMaxExperts = 1024;  // as ops/moe.h allows
constexpr int kTokensPerBlock = 4;
constexpr int kThreads = 256;

// A float32 as an integer of the same order, and back. Both zeros are one number, NaN stands above all; nothing gives 0.
__device__ __forceinline__ uint32_t ordered(float v) {
  if (isnan(v)) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(v + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float fromOrdered(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

__device__ __forceinline__ uint64_t warpMax64(uint64_t x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

// One warp per token; lane l holds experts l, l + 32, ... Every round takes the largest logit that is left (the lower index among equals),
// which the warp finds as the maximum of (logit, complement of the index). Lane j keeps choice j.
//   outWeights, outExperts: [tokens, topK]; logits: rows of `experts` elements at their stride.
template <class T, int kPerLane>
__global__ void __launch_bounds__(kTokensPerBlock * 32) routingKernel(float* outWeights, int32_t* outExperts, const T* logits, int64_t stride,
                                                                      int tokens, int experts, int topK, bool renormalize) {
  letNextStart();
  waitForPrevious();
  const int token = blockIdx.x * kTokensPerBlock + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= tokens) return;
  const T* row = logits + token * stride;
  float values[kPerLane], largest = __int_as_float(0xff800000);
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * 32 + lane;
    const bool inside = expert < experts;
    values[i] = inside ? toFloatDevice(row[expert]) : __int_as_float(0xff800000);
    keys[i] = inside ? ordered(values[i]) : 0;
    largest = fmaxf(largest, values[i]);
  }
  largest = warpMax(largest);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (i * 32 + lane < experts) sum += expf(values[i] - largest);
  sum = warpSum(sum);

  float weight = 0, chosen = 0;
  int32_t expert = 0;
  for (int j = 0; j < topK; ++j) {
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const uint64_t candidate = static_cast<uint64_t>(keys[i]) << 32 | (0xffffffffu - static_cast<uint32_t>(i * 32 + lane));
      best = candidate > best ? candidate : best;
    }
    best = warpMax64(best);
    const int winner = static_cast<int>(0xffffffffu - static_cast<uint32_t>(best));
    const float probability = expf(fromOrdered(static_cast<uint32_t>(best >> 32)) - largest) / sum;
    chosen += probability;
    if (lane == j) weight = probability, expert = winner;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * 32 + lane == winner) keys[i] = 0;
  }
  if (lane >= topK) return;
  outWeights[static_cast<int64_t>(token) * topK + lane] = renormalize ? weight / chosen : weight;
  outExperts[static_cast<int64_t>(token) * topK + lane] = expert;
}

template <class T, int kPerLane>
void launchRouting(CudaStream& stream, cudaStream_t s, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize) {
  const int64_t tokens = logits.dims[0];
  launchChained({s, stream.overlaps()}, routingKernel<T, kPerLane>, static_cast<unsigned>(ceilDiv(tokens, kTokensPerBlock)), kTokensPerBlock * 32,
                outWeights.ptr<float>(), outExperts.ptr<int32_t>(), logits.ptr<T>(), logits.strides[0], static_cast<int>(tokens),
                static_cast<int>(logits.dims[1]), static_cast<int>(outWeights.dims[1]), renormalize);
}

// One block for all pairs: counts them per expert, gives every expert its blocks (thread e those of expert e), then places the pairs. The
// order of an expert's pairs is that in which threads come to place them; no result depends on it.
//   blocks: [numBlocks, 1 + blockRows], experts: [pairs].
__global__ void __launch_bounds__(kMaxExperts) alignKernel(int32_t* blocks, const int32_t* experts, int pairs, int numExperts, int64_t numBlocks, int blockRows) {
  __shared__ int count[kMaxExperts];
  __shared__ int next[kMaxExperts];
  __shared__ int warpTotals[kMaxExperts / 32];
  letNextStart();
  const int64_t width = 1 + blockRows;
  const int expert = threadIdx.x, lane = expert % 32, warp = expert / 32;
  count[expert] = 0;
  __syncthreads();
  waitForPrevious();
  for (int64_t i = threadIdx.x; i < numBlocks * width; i += kMaxExperts) blocks[i] = -1;
  for (int p = threadIdx.x; p < pairs; p += kMaxExperts)
    if (static_cast<unsigned>(experts[p]) < static_cast<unsigned>(numExperts)) atomicAdd(&count[experts[p]], 1);
  __syncthreads();

  const int mine = (count[expert] + blockRows - 1) / blockRows;
  int through = mine;  // blocks of experts up to this one
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, through, offset);
    if (lane >= offset) through += before;
  }
  if (lane == 31) warpTotals[warp] = through;
  __syncthreads();
  for (int w = 0; w < warp; ++w) through += warpTotals[w];
  const int first = through - mine;
  next[expert] = first * blockRows;
  for (int b = 0; b < mine; ++b) blocks[(first + b) * width] = expert;
  __syncthreads();

  for (int p = threadIdx.x; p < pairs; p += kMaxExperts) {
    const int e = experts[p];
    if (static_cast<unsigned>(e) >= static_cast<unsigned>(numExperts)) continue;
    const int at = atomicAdd(&next[e], 1);
    blocks[at / blockRows * width + 1 + at % blockRows] = p;
  }
}

// Block (token, part): one pack of N columns per thread, summed over the token's choices in their order.
//   out: [tokens, hidden], x: [tokens * topK, hidden], rows at their strides; weights, experts: [tokens, topK].
template <class T, int N>
__global__ void __launch_bounds__(kThreads) combineKernel(T* out, int64_t outStride, const T* x, int64_t xStride, const float* weights,
                                                          const int32_t* experts, int topK, int numExperts, int hidden) {
  letNextStart();
  waitForPrevious();
  const int pack = blockIdx.y * kThreads + threadIdx.x;
  if (pack >= hidden / N) return;
  const int64_t pair0 = static_cast<int64_t>(blockIdx.x) * topK;
  float sum[N] = {};
#pragma unroll 4
  for (int j = 0; j < topK; ++j) {
    if (static_cast<unsigned>(experts[pair0 + j]) >= static_cast<unsigned>(numExperts)) continue;
    const float weight = weights[pair0 + j];
    const Pack<T, N> values = reinterpret_cast<const Pack<T, N>*>(x + (pair0 + j) * xStride)[pack];
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = fmaf(weight, toFloatDevice(values.v[i]), sum[i]);
  }
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.v[i] = convert<T>(sum[i]);
  reinterpret_cast<Pack<T, N>*>(out + blockIdx.x * outStride)[pack] = result;
}

}  // namespace

void moeRouting(CudaStream& stream, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize) {
  if (logits.dims[0] == 0) return;
  stream.launch("moeRouting", [&](cudaStream_t s) {
    dispatchFloat(logits.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      const auto launch = [&]<int kPerLane>() { launchRouting<T, kPerLane>(stream, s, outWeights, outExperts, logits, renormalize); };
      const int64_t experts = logits.dims[1];
      if (experts <= 32) return launch.template operator()<1>();
      if (experts <= 64) return launch.template operator()<2>();
      if (experts <= 128) return launch.template operator()<4>();
      if (experts <= 256) return launch.template operator()<8>();
      launch.template operator()<kMaxExperts / 32>();
    });
  });
}

void moeAlign(CudaStream& stream, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts) {
  if (outBlocks.numel() == 0) return;
  stream.launch("moeAlign", [&](cudaStream_t s) {
    launchChained({s, stream.overlaps()}, alignKernel, 1, kMaxExperts, outBlocks.ptr<int32_t>(), experts.ptr<int32_t>(), static_cast<int>(experts.numel()),
                  static_cast<int>(numExperts), outBlocks.dims[0], static_cast<int>(outBlocks.dims[1] - 1));
  });
}

void moeCombine(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts) {
  if (out.numel() == 0) return;
  const int64_t size = elementSize(out.dtype);
  const bool vector = accessBytes({addressOf(out), addressOf(x), out.dims[1] * size, out.strides[0] * size, x.strides[0] * size}) == 16;
  stream.launch("moeCombine", [&](cudaStream_t s) {
    dispatchFloat(out.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? combineKernel<T, N> : combineKernel<T, 1>;
      const dim3 grid(static_cast<unsigned>(out.dims[0]), static_cast<unsigned>(ceilDiv(out.dims[1] / (vector ? N : 1), kThreads)));
      launchChained({s, stream.overlaps()}, kernel, grid, kThreads, out.ptr<T>(), out.strides[0], x.ptr<T>(), x.strides[0], weights.ptr<float>(),
                    experts.ptr<int32_t>(), static_cast<int>(weights.dims[1]), static_cast<int>(numExperts), static_cast<int>(out.dims[1]));
    });
  });
}

}  // namespace kvasir::cuda
