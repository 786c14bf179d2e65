// Linear layers of one or two tokens: the time is that of reading the weight once.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/gemm/element.cuh"
#include "cuda/reduce.cuh"

namespace kvasir::cuda::gemv {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kFlight = 4;  // 16-byte loads of the weight that a lane keeps in flight
// Blocks on a multiprocessor: enough loads under way for the speed of the memory, and registers left for loading a round of x at once.
inline constexpr int kResident = 4;

// Stores 16 bytes that are read once in v, or leaves it. Volatile: the loads before the wait must be issued there, however late their
// values are used. Predicated, because branches would keep the loads around it apart.
__device__ __forceinline__ void stream(uint4& v, const uint4* p, bool have) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
               : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
               : "l"(p), "r"(static_cast<uint32_t>(have)));
}

template <class T>
__device__ __forceinline__ float gatedActivation(GatedActivation kind, float x) {
  constexpr bool kFast = sizeof(T) == 2;  // as activation.cu
  switch (kind) {
    case GatedActivation::Silu: return Silu::apply<kFast>(x);
    case GatedActivation::Gelu: return Gelu::apply<kFast>(x);
    default: return GeluTanh::apply<kFast>(x);
  }
}

// Which output feature slot `local` of a block has; a.n and more: none. Gated, the first half of the slots are gates and the second half
// the factors that belong to them.
template <int kFeatures, bool kGated>
__device__ __forceinline__ int64_t featureOf(const GemmArgs& a, int local) {
  if constexpr (kGated) {
    const int64_t size = a.n / 2, gate = static_cast<int64_t>(blockIdx.x) * (kFeatures / 2) + local % (kFeatures / 2);
    return gate >= size ? a.n : local < kFeatures / 2 ? gate : gate + size;
  } else {
    return static_cast<int64_t>(blockIdx.x) * kFeatures + local;
  }
}

// One warp's part of the products of a weight row with the rows of x. Lane i of part p takes vectors p * 32 + i, + kStep, ..; loads of the
// weight go round a ring of registers, which is filled before the wait.
template <class T, int kRows, int kStep>
struct WarpProducts {
  const uint4* w;        // of the row
  const uint4* x[kRows];
  int end;               // vectors of the row, 0: no row
  uint4 ring[kFlight];
  float sum[kRows] = {};

  // The ring's vectors i, i + kStep, ..; kWhole: all of them exist. Refills it.
  template <bool kWhole>
  __device__ __forceinline__ void round(int i) {
    constexpr int kWidth = 16 / sizeof(T);
#pragma unroll
    for (int u = 0; u < kFlight; ++u) {
      const int at = i + u * kStep, ahead = at + kFlight * kStep;
      float weights[kWidth];
      unpack(ring[u], weights, static_cast<T*>(nullptr));
      stream(ring[u], w + ahead, ahead < end);
      if (!kWhole && at >= end) return;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float values[kWidth];
        unpack(x[r][at], values, static_cast<T*>(nullptr));
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum[r] = fmaf(weights[j], values[j], sum[r]);
      }
    }
  }

  __device__ __forceinline__ void compute(const GemmArgs& a, int64_t feature, int i, int vectors) {
    const bool have = feature < a.n;
    w = reinterpret_cast<const uint4*>(static_cast<const T*>(a.weight) + (have ? feature : 0) * a.weightStride);
    end = have ? vectors : 0;
#pragma unroll
    for (int u = 0; u < kFlight; ++u) {
      ring[u] = make_uint4(0, 0, 0, 0);
      stream(ring[u], w + i + u * kStep, i + u * kStep < end);
    }
    waitForPrevious();
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = reinterpret_cast<const uint4*>(static_cast<const T*>(a.x) + r * a.xStride);
    for (; i + (kFlight - 1) * kStep < end; i += kFlight * kStep) round<true>(i);
    if (i < end) round<false>(i);
  }
};

// A block computes kWarps / kSplit output features for kRows rows of x: [kRows, n] = x [kRows, k] weight [n, k]^T. kSplit warps share a
// feature; each takes every kSplit-th run of 32 vectors, a lane one vector of it. The weight passes through once (streaming loads);
// x comes from L1. Lanes are added by shuffles, warps in order through shared memory. Then lane (local * kRows + row) of the first warp
// has a result; gated, the lane of a gate fetches its factor from that lane and stores act(gate) * factor of the rounded values too.
template <class T, int kRows, int kSplit, bool kGated>
__global__ void __launch_bounds__(kThreads, kResident) gemvKernel(const GemmArgs a, const GatedOutput gated, int vectors) {
  constexpr int kFeatures = kWarps / kSplit;
  static_assert(kFeatures * kRows <= 32 && (!kGated || kFeatures % 2 == 0));
  __shared__ float partial[kWarps][kRows];
  letNextStart();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  WarpProducts<T, kRows, 32 * kSplit> products;
  products.compute(a, featureOf<kFeatures, kGated>(a, warp / kSplit), (warp % kSplit) * 32 + lane, vectors);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float total = warpSum(products.sum[r]);
    if (lane == 0) partial[warp][r] = total;
  }
  __syncthreads();
  if (warp != 0) return;
  const int local = lane / kRows, row = lane % kRows;
  const int64_t feature = local < kFeatures ? featureOf<kFeatures, kGated>(a, local) : a.n;
  float total = 0;
  if (feature < a.n) {
#pragma unroll
    for (int part = 0; part < kSplit; ++part) total += partial[local * kSplit + part][row];
    total += biasAt<T>(a, feature);
    storeAt<T>(a, row, feature, total);
  }
  if constexpr (kGated) {
    const float rounded = toFloatDevice(convert<T>(total));
    const float factor = __shfl_down_sync(0xffffffffu, rounded, kFeatures / 2 * kRows);
    if (local < kFeatures / 2 && feature < a.n)
      static_cast<T*>(gated.out)[row * gated.stride + feature] = convert<T>(gatedActivation<T>(gated.activation, rounded) * factor);
  }
}

template <class T, int kRows, int kSplit, bool kGated>
void launchSplit(const GemmArgs& a, const GatedOutput& gated, cudaStream_t stream) {
  constexpr int64_t features = kWarps / kSplit / (kGated ? 2 : 1);
  const int64_t all = kGated ? a.n / 2 : a.n;
  launchChained({stream, a.overlap}, gemvKernel<T, kRows, kSplit, kGated>, static_cast<unsigned>((all + features - 1) / features), kThreads, a, gated,
                static_cast<int>(a.k / (16 / sizeof(T))));
}

}  // namespace kvasir::cuda::gemv
