// The rotation of a few pairs of one head, in registers: shared by kernels that rotate in place and those that also store elsewhere.
#pragma once

#include "cuda/access.cuh"
#include "cuda/convert.cuh"

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

// The row of the table for a token, or null for a position outside of it.
//   positions: int32 or int64 [numTokens]; cosSin [maxPosition] rows of `stride` floats.
__device__ __forceinline__ const float* cosSinRow(const float* cosSin, int64_t stride, int64_t maxPosition, const void* positions, bool wide, int64_t token) {
  const int64_t position = wide ? static_cast<const int64_t*>(positions)[token] : int64_t{static_cast<const int32_t*>(positions)[token]};
  return position >= 0 && position < maxPosition ? cosSin + position * stride : nullptr;
}

}  // namespace kvasir::cuda
