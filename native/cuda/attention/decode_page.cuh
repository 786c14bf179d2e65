// What one lane of a decode warp holds of a page: a part of the keys as left operand of the score product, and one of the values as left
// operand of the value product. A contraction may take its elements in any order that both operands share, so lanes load 16 bytes of a
// row where a matrix fragment has 4. In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/fp8.cuh"
#include "cuda/attention/mma.cuh"
#include "cuda/cache_layout.cuh"

namespace kvasir::cuda::attention {

// T: type of the products; C: element type of the cache.
template <class T, class C, int D>
struct DecodePage {
  static_assert(sizeof(T) == 2 && sizeof(C) == 2, "the elements of the cache are those of the products");
  static constexpr int kSteps = D / 16;
  uint32_t k[2][kSteps][2];  // keys g and g + 8 of a page
  uint32_t v[4][kSteps];     // values 2t, 2t + 1, 2t + 8, 2t + 9

  // First dimension of the 4 that lane t has of a key in contraction step `step`.
  __device__ __forceinline__ static constexpr int keyDim(int step, int t) {
    return step < D / 32 * 2 ? step / 2 * 32 + t * 8 + step % 2 * 4 : D - 16 + t * 4;
  }
  // First dimension of the 2 in word `word` of lane g's part of a value.
  __device__ __forceinline__ static constexpr int valueDim(int word, int g) {
    constexpr int wide = D / 64 * 4;
    if (word < wide) return word / 4 * 64 + g * 8 + word % 4 * 2;
    if (D % 64 >= 32 && word < wide + 2) return D / 64 * 64 + g * 4 + (word - wide) * 2;
    return D - 16 + g * 2;
  }

  // A row as operand of the score product; 16-byte aligned.
  __device__ __forceinline__ static void loadRow(uint32_t (&words)[kSteps][2], const T* row, int t) {
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(row + j * 32 + t * 8));
      words[2 * j][0] = x.x, words[2 * j][1] = x.y, words[2 * j + 1][0] = x.z, words[2 * j + 1][1] = x.w;
    }
    if constexpr (D % 32 != 0) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + D - 16 + t * 4));
      words[kSteps - 1][0] = x.x, words[kSteps - 1][1] = x.y;
    }
  }
  __device__ __forceinline__ static void loadValue(uint32_t (&words)[kSteps], const C* row, int g) {
    constexpr int wide = D / 64 * 4;
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(row + c * 64 + g * 8));
      words[4 * c] = x.x, words[4 * c + 1] = x.y, words[4 * c + 2] = x.z, words[4 * c + 3] = x.w;
    }
    if constexpr (D % 64 >= 32) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + D / 64 * 64 + g * 4));
      words[wide] = x.x, words[wide + 1] = x.y;
    }
    if constexpr (D % 32 != 0) words[kSteps - 1] = __ldcs(reinterpret_cast<const uint32_t*>(row + D - 16 + g * 2));
  }
  __device__ __forceinline__ void loadKeys(const C* page, int g, int t) {
    loadRow(k[0], page + g * D, t);
    loadRow(k[1], page + (g + 8) * D, t);
  }
  __device__ __forceinline__ void loadValues(const C* page, int t, int g) {
    loadValue(v[0], page + (2 * t) * D, g);
    loadValue(v[1], page + (2 * t + 1) * D, g);
    loadValue(v[2], page + (2 * t + 8) * D, g);
    loadValue(v[3], page + (2 * t + 9) * D, g);
  }
  __device__ __forceinline__ void clearValue(int i) {
#pragma unroll
    for (int w = 0; w < kSteps; ++w) v[i][w] = 0;
  }

  // Keys as left operand: rows g and g + 8, the 4 dimensions of a step.
  __device__ __forceinline__ void keyOperand(int step, uint32_t (&a)[4]) const {
    a[0] = k[0][step][0], a[1] = k[1][step][0], a[2] = k[0][step][1], a[3] = k[1][step][1];
  }
  // Values as left operand, transposed: rows valueDim(w, g) and the next dimension, columns keys 2t, 2t + 1, 2t + 8, 2t + 9.
  __device__ __forceinline__ void valueOperand(int w, uint32_t (&a)[4]) const {
    a[0] = __byte_perm(v[0][w], v[1][w], 0x5410), a[1] = __byte_perm(v[0][w], v[1][w], 0x7632);
    a[2] = __byte_perm(v[2][w], v[3][w], 0x5410), a[3] = __byte_perm(v[2][w], v[3][w], 0x7632);
  }
};

// Half the bytes, so twice the dimensions in each load; they stay as they are until a product needs them.
template <class T, int D>
struct DecodePage<T, Fp8, D> {
  static constexpr int kSteps = D / 16, kWords = (kSteps + 1) / 2;
  uint32_t k[2][kSteps];  // keys g and g + 8 of a page, 4 dimensions a word
  uint32_t v[4][kWords];  // values 2t, 2t + 1, 2t + 8, 2t + 9; of the last word only half, when kSteps is odd

  __device__ __forceinline__ static constexpr int keyDim(int step, int t) {
    constexpr int wide = D / 64 * 4;
    if (step < wide) return step / 4 * 64 + t * 16 + step % 4 * 4;
    if (D % 64 >= 32 && step < wide + 2) return D / 64 * 64 + t * 8 + (step - wide) * 4;
    return D - 16 + t * 4;
  }
  __device__ __forceinline__ static constexpr int valueDim(int word, int g) {
    constexpr int wide = D / 128 * 8, half = D % 128 / 64 * 4, quarter = D % 64 / 32 * 2;
    if (word < wide) return word / 8 * 128 + g * 16 + word % 8 * 2;
    if (word < wide + half) return D / 128 * 128 + g * 8 + (word - wide) * 2;
    if (word < wide + half + quarter) return D / 64 * 64 + g * 4 + (word - wide - half) * 2;
    return D - 16 + g * 2;
  }

  __device__ __forceinline__ static void loadRow(uint32_t (&words)[kSteps][2], const T* row, int t) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + keyDim(step, t)));
      words[step][0] = x.x, words[step][1] = x.y;
    }
  }
  __device__ __forceinline__ static void loadKey(uint32_t (&words)[kSteps], const uint8_t* row, int t) {
    constexpr int wide = D / 64 * 4;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(row + j * 64 + t * 16));
      words[4 * j] = x.x, words[4 * j + 1] = x.y, words[4 * j + 2] = x.z, words[4 * j + 3] = x.w;
    }
    if constexpr (D % 64 >= 32) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + D / 64 * 64 + t * 8));
      words[wide] = x.x, words[wide + 1] = x.y;
    }
    if constexpr (D % 32 != 0) words[kSteps - 1] = __ldcs(reinterpret_cast<const uint32_t*>(row + D - 16 + t * 4));
  }
  __device__ __forceinline__ static void loadValue(uint32_t (&words)[kWords], const uint8_t* row, int g) {
    constexpr int wide = D / 128 * 4, half = D % 128 / 64 * 2;
#pragma unroll
    for (int c = 0; c < D / 128; ++c) {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(row + c * 128 + g * 16));
      words[4 * c] = x.x, words[4 * c + 1] = x.y, words[4 * c + 2] = x.z, words[4 * c + 3] = x.w;
    }
    if constexpr (D % 128 >= 64) {
      const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + D / 128 * 128 + g * 8));
      words[wide] = x.x, words[wide + 1] = x.y;
    }
    if constexpr (D % 64 >= 32) words[wide + half] = __ldcs(reinterpret_cast<const uint32_t*>(row + D / 64 * 64 + g * 4));
    if constexpr (D % 32 != 0) words[kWords - 1] = __ldcs(reinterpret_cast<const uint16_t*>(row + D - 16 + g * 2));
  }
  __device__ __forceinline__ void loadKeys(const Fp8* page, int g, int t) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(page);
    loadKey(k[0], bytes + g * D, t);
    loadKey(k[1], bytes + (g + 8) * D, t);
  }
  __device__ __forceinline__ void loadValues(const Fp8* page, int t, int g) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(page);
    loadValue(v[0], bytes + (2 * t) * D, g);
    loadValue(v[1], bytes + (2 * t + 1) * D, g);
    loadValue(v[2], bytes + (2 * t + 8) * D, g);
    loadValue(v[3], bytes + (2 * t + 9) * D, g);
  }
  __device__ __forceinline__ void clearValue(int i) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) v[i][w] = 0;
  }

  __device__ __forceinline__ void keyOperand(int step, uint32_t (&a)[4]) const {
    widen<T>(k[0][step], a[0], a[2]);
    widen<T>(k[1][step], a[1], a[3]);
  }
  __device__ __forceinline__ void valueOperand(int w, uint32_t (&a)[4]) const {
    const uint32_t bytes = w % 2 == 0 ? 0x5140 : 0x7362;
    widen<T>(__byte_perm(v[0][w / 2], v[1][w / 2], bytes), a[0], a[1]);
    widen<T>(__byte_perm(v[2][w / 2], v[3][w / 2], bytes), a[2], a[3]);
  }
};

}  // namespace kvasir::cuda::attention
