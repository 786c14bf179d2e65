// The rotation of a few pairs of one head, in registers: shared by kernels that rotate in place and those that also store elsewhere.
#pragma once

#include <algorithm>
#include <optional>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/norm.cuh"
#include "cuda/pending.h"

namespace kvasir::cuda {

// The heads of [numTokens, count, headDim]; distances in elements.
struct Heads {
  void* data;
  int64_t tokenStride, headStride;
  int count;

  template <class T>
  __device__ __forceinline__ T* at(int64_t token, int head) const {
    return static_cast<T*>(data) + token * tokenStride + head * headStride;
  }
};
inline Heads headsOf(const Tensor& x) { return {x.data, x.strides[0], x.strides[1], static_cast<int>(x.dims[1])}; }
inline bool vectorHeads(const Tensor& x) {
  const int64_t size = elementSize(x.dtype);
  return accessBytes({addressOf(x), x.strides[0] * size, x.strides[1] * size}) == 16;
}
// Whether half a rotary part is whole 16-byte vectors, of elements and of the table.
inline bool vectorTable(const Tensor& cosSin, DType dtype) {
  const int64_t half = cosSin.dims[1] / 2, floatBytes = elementSize(DType::Float32);
  return accessBytes({half * elementSize(dtype), half * floatBytes, addressOf(cosSin), cosSin.strides[0] * floatBytes}) == 16;
}

// Unit u of a head: pairs u * N .. u * N + N - 1 of its rotaryDim / 2 = half pairs, held as two packs of N elements.
// kNeox: pair i is (i, i + half), so the packs lie `half` apart; otherwise (2i, 2i + 1), and the packs follow each other.
template <class T, int N, bool kNeox>
struct RotaryUnit {
  Pack<T, N> first, second;

  static __device__ __forceinline__ int firstAt(int u) { return kNeox ? u * N : 2 * u * N; }
  static __device__ __forceinline__ int secondAt(int u, int half) { return kNeox ? half + u * N : 2 * u * N + N; }

  __device__ __forceinline__ void load(const T* head, int u, int half) {
    first = *reinterpret_cast<const Pack<T, N>*>(head + firstAt(u));
    second = *reinterpret_cast<const Pack<T, N>*>(head + secondAt(u, half));
  }

  __device__ __forceinline__ void store(T* head, int u, int half) const {
    *reinterpret_cast<Pack<T, N>*>(head + firstAt(u)) = first;
    *reinterpret_cast<Pack<T, N>*>(head + secondAt(u, half)) = second;
  }

  // (a, b) -> (a cos - b sin, b cos + a sin) in float32, rounded once. cosSin: the position's row, half cosines, then half sines.
  __device__ __forceinline__ void rotate(const float* cosSin, int u, int half) {
    constexpr int kFloats = N < 4 ? N : 4;
    using Floats = Pack<float, kFloats>;
#pragma unroll
    for (int chunk = 0; chunk < N; chunk += kFloats) {
      const Floats cosine = *reinterpret_cast<const Floats*>(cosSin + u * N + chunk);
      const Floats sine = *reinterpret_cast<const Floats*>(cosSin + half + u * N + chunk);
#pragma unroll
      for (int j = 0; j < kFloats; ++j) {
        T& a = kNeox ? first.v[chunk + j] : element(2 * (chunk + j));
        T& b = kNeox ? second.v[chunk + j] : element(2 * (chunk + j) + 1);
        const float x = toFloatDevice(a), y = toFloatDevice(b);
        a = convert<T>(x * cosine.v[j] - y * sine.v[j]);
        b = convert<T>(y * cosine.v[j] + x * sine.v[j]);
      }
    }
  }

 private:
  __device__ __forceinline__ T& element(int i) { return i < N ? first.v[i] : second.v[i - N]; }
};

// RMSNorm of every head before it is rotated, for kernels with kNorm.
struct HeadNorm {
  const void* qWeight;  // [headDim], as kWeight
  const void* kWeight;
  float eps;
  bool gemma;
};
inline HeadNorm headNormOf(const std::optional<PendingRope::Norms>& norms) {
  return norms ? HeadNorm{norms->qWeight.data, norms->kWeight.data, norms->eps, norms->gemma} : HeadNorm{};
}

// Threads of a block across a head of `units`. Where the head is normalised they are lanes of one warp, a power of two.
inline int threadsAcross(int units, bool norm, int threads) {
  if (!norm) return std::min(units, threads);
  int across = 1;
  while (across < units && across < 32) across *= 2;
  return across;
}

// The sum over the threads of one head, in the same order for all of them; blockDim.x is a power of two up to 32.
__device__ __forceinline__ float headSum(float x) {
  const unsigned width = blockDim.x, lane = (threadIdx.y * width + threadIdx.x) % 32;
  const unsigned lanes = (width == 32 ? 0xffffffffu : (1u << width) - 1) << (lane / width * width);
  for (unsigned offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(lanes, x, offset);
  return x;
}

// One head by the threads (.., threadIdx.y), all of which call this: normalised if kNorm, then rotated, in place; also stored at `copy`
// (with what does not rotate) if that is not null.
//   head, copy, weight [headDim]; row: cosSinRow(), not null.
template <class T, int N, bool kNeox, bool kNorm>
__device__ __forceinline__ void rotateHead(T* head, T* copy, const float* row, int half, int headDim, const T* weight, float eps, bool gemma) {
  using P = Pack<T, N>;
  const int units = half / N, packs = headDim / N;
  const bool once = units <= static_cast<int>(blockDim.x);
  RotaryUnit<T, N, kNeox> unit, factors;
  float scale = 0;
  if constexpr (kNorm) {
    float squares = 0;
    for (int u = threadIdx.x; u < units; u += blockDim.x) {
      unit.load(head, u, half);
      factors.load(weight, u, half);
      squares = addSquares(addSquares(squares, unit.first), unit.second);
    }
    for (int i = 2 * units + threadIdx.x; i < packs; i += blockDim.x) squares = addSquares(squares, reinterpret_cast<const P*>(head)[i]);
    scale = rsqrtf(headSum(squares) / static_cast<float>(headDim) + eps);
  }
  for (int u = threadIdx.x; u < units; u += blockDim.x) {
    if (!kNorm || !once) unit.load(head, u, half);
    if constexpr (kNorm) {
      if (!once) factors.load(weight, u, half);
      unit.first = normalised(unit.first, factors.first, scale, gemma);
      unit.second = normalised(unit.second, factors.second, scale, gemma);
    }
    unit.rotate(row, u, half);
    unit.store(head, u, half);
    if (copy) unit.store(copy, u, half);
  }
  if (!kNorm && !copy) return;
  for (int i = 2 * units + threadIdx.x; i < packs; i += blockDim.x) {
    P p = reinterpret_cast<const P*>(head)[i];
    if constexpr (kNorm) reinterpret_cast<P*>(head)[i] = p = normalised(p, reinterpret_cast<const P*>(weight)[i], scale, gemma);
    if (copy) reinterpret_cast<P*>(copy)[i] = p;
  }
}

// The row of the table for a token, or null for a position outside of it.
//   positions: int32 or int64 [numTokens]; cosSin [maxPosition] rows of `stride` floats.
__device__ __forceinline__ const float* cosSinRow(const float* cosSin, int64_t stride, int64_t maxPosition, const void* positions, bool wide, int64_t token) {
  const int64_t position = wide ? static_cast<const int64_t*>(positions)[token] : int64_t{static_cast<const int32_t*>(positions)[token]};
  return position >= 0 && position < maxPosition ? cosSin + position * stride : nullptr;
}

}  // namespace kvasir::cuda
