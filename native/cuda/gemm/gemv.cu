// Linear layers of one or two tokens: the time is that of reading the weight once.
#include "cuda/gemm/element.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kFlight = 4;  // 16-byte loads of the weight that a lane keeps in flight

// A block computes kWarps / kSplit output features for kRows rows of x: [kRows, n] = x [kRows, k] weight [n, k]^T. kSplit warps share a
// feature; each takes every kSplit-th run of 32 vectors, a lane one vector of it. The weight passes through once (streaming loads);
// x comes from L1. Lanes are added by shuffles, warps in order through shared memory.
template <class T, int kRows, int kSplit>
__global__ void __launch_bounds__(kThreads) gemvKernel(const GemmArgs a, int vectors) {
  constexpr int kFeatures = kWarps / kSplit;
  constexpr int kStep = 32 * kSplit;
  constexpr int kWidth = 16 / sizeof(T);
  __shared__ float partial[kWarps][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kFeatures;
  const int64_t feature = first + warp / kSplit;
  float sum[kRows] = {};
  if (feature < a.n) {
    const uint4* w = reinterpret_cast<const uint4*>(static_cast<const T*>(a.weight) + feature * a.weightStride);
    const uint4* x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = reinterpret_cast<const uint4*>(static_cast<const T*>(a.x) + r * a.xStride);
    int i = (warp % kSplit) * 32 + lane;
    uint4 ring[kFlight];
#pragma unroll
    for (int u = 0; u < kFlight; ++u) ring[u] = i + u * kStep < vectors ? __ldcs(w + i + u * kStep) : make_uint4(0, 0, 0, 0);
    for (; i < vectors; i += kFlight * kStep) {
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        const int at = i + u * kStep, ahead = at + kFlight * kStep;
        float weights[kWidth];
        unpack(ring[u], weights, static_cast<T*>(nullptr));
        if (ahead < vectors) ring[u] = __ldcs(w + ahead);
        if (at < vectors) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            float values[kWidth];
            unpack(__ldg(x[r] + at), values, static_cast<T*>(nullptr));
#pragma unroll
            for (int j = 0; j < kWidth; ++j) sum[r] = fmaf(weights[j], values[j], sum[r]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float total = warpSum(sum[r]);
    if (lane == 0) partial[warp][r] = total;
  }
  __syncthreads();
  if (threadIdx.x >= kFeatures * kRows) return;
  const int local = threadIdx.x / kRows, row = threadIdx.x % kRows;
  if (first + local >= a.n) return;
  float total = 0;
#pragma unroll
  for (int part = 0; part < kSplit; ++part) total += partial[local * kSplit + part][row];
  storeAt<T>(a, row, first + local, total + biasAt<T>(a, first + local));
}

template <class T, int kRows, int kSplit>
void launchSplit(const GemmArgs& a, cudaStream_t stream) {
  constexpr int64_t features = kWarps / kSplit;
  gemvKernel<T, kRows, kSplit><<<static_cast<unsigned>((a.n + features - 1) / features), kThreads, 0, stream>>>(
      a, static_cast<int>(a.k / (16 / sizeof(T))));
}

template <class T, int kRows>
void launchRows(const GemmArgs& a, int warps, cudaStream_t stream) {
  if (warps == 1) return launchSplit<T, kRows, 1>(a, stream);
  if (warps == 2) return launchSplit<T, kRows, 2>(a, stream);
  if (warps == 4) return launchSplit<T, kRows, 4>(a, stream);
  launchSplit<T, kRows, 8>(a, stream);
}

}  // namespace

void launchGemv(const GemmArgs& args, DType dtype, int warps, cudaStream_t stream) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    if (args.m == 1)
      launchRows<T, 1>(args, warps, stream);
    else
      launchRows<T, 2>(args, warps, stream);
  });
}

}  // namespace kvasir::cuda
