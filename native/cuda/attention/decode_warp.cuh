// One warp's part of decode attention: tensor core products straight from registers, without shared memory. Scores are computed
// transposed (16 keys of a page x 8 query rows), and so is the output (dimensions x rows): keys and values are the left operand and
// nothing is wasted on absent rows. A contraction may take its elements in any order that both operands share, so lanes load 16 bytes of
// a key where a matrix fragment has 4. In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/softmax.cuh"
#include "cuda/cache_layout.cuh"

namespace kvasir::cuda::attention {

inline constexpr int kDecodeWarps = 4;

// First dimension of the 4 that lane t has of a key in contraction step `step`.
template <int D>
__device__ __forceinline__ constexpr int keyDim(int step, int t) {
  return step < D / 32 * 2 ? step / 2 * 32 + t * 8 + step % 2 * 4 : D - 16 + t * 4;
}
// First dimension of the 2 in word `word` of lane g's part of a value.
template <int D>
__device__ __forceinline__ constexpr int valueDim(int word, int g) {
  constexpr int wide = D / 64 * 4;
  if (word < wide) return word / 4 * 64 + g * 8 + word % 4 * 2;
  if (D % 64 >= 32 && word < wide + 2) return D / 64 * 64 + g * 4 + (word - wide) * 2;
  return D - 16 + g * 2;
}

template <class T, int D>
__device__ __forceinline__ void loadKey(uint32_t (&words)[D / 16][2], const T* row, int t) {
#pragma unroll
  for (int j = 0; j < D / 32; ++j) {
    const uint4 x = __ldcs(reinterpret_cast<const uint4*>(row + j * 32 + t * 8));
    words[2 * j][0] = x.x, words[2 * j][1] = x.y, words[2 * j + 1][0] = x.z, words[2 * j + 1][1] = x.w;
  }
  if constexpr (D % 32 != 0) {
    const uint2 x = __ldcs(reinterpret_cast<const uint2*>(row + D - 16 + t * 4));
    words[D / 16 - 1][0] = x.x, words[D / 16 - 1][1] = x.y;
  }
}

template <class T, int D>
__device__ __forceinline__ void loadValue(uint32_t (&words)[D / 16], const T* row, int g) {
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
  if constexpr (D % 32 != 0) words[D / 16 - 1] = __ldcs(reinterpret_cast<const uint32_t*>(row + D - 16 + g * 2));
}

// Keys that the rows of a tile see. In shared memory and volatile, because registers are short: read anew where it is needed.
struct KeyRange {
  int lo, hi;          // that some row attends
  int minPos, maxPos;  // of the rows
  int window;
};

// The leaves of a block, in the order of the tree: position `at` of 2^depth, of which some are empty. Volatile as KeyRange.
struct BlockLeaves {
  int base, hi;  // keys
  int tokens;    // of a leaf
  int split, blocks, count, depth;

  __device__ __forceinline__ int index(int at) const volatile { return depth ? static_cast<int>(__brev(at) >> (32 - depth)) : 0; }
  __device__ __forceinline__ bool has(int at) const volatile { return index(at) < count; }
  __device__ __forceinline__ int from(int at) const volatile { return base + (split + index(at) * blocks) * tokens; }
  __device__ __forceinline__ int firstPage(int at) const volatile { return from(at) / kPageTokens; }
  __device__ __forceinline__ int endPage(int at) const volatile { return (min(from(at) + tokens, hi) + kPageTokens - 1) / kPageTokens; }
};

// The pages of a warp, one after the other over all of its block's leaves: where one leaf's results are merged, the next one's first page
// is already under way.
template <class T>
struct PageStream {
  const volatile BlockLeaves& leaves;
  const T* cache;        // the kv head's page of block 0
  const int32_t* table;  // the sequence's blocks
  int valueOffset;       // elements between the pages of a block's keys and values, and half of those between blocks
  int at, page, end;
  bool more;
  int32_t block;  // of `page`

  __device__ __forceinline__ void begin() {
    at = -1;
    page = end = 0;
    find(static_cast<int>(threadIdx.x) / 32);
  }
  __device__ __forceinline__ void find(int warp) {
    while (page >= end) {
      more = ++at < 1 << leaves.depth;
      if (!more) return;
      if (!leaves.has(at)) continue;
      page = leaves.firstPage(at) + warp;
      end = leaves.endPage(at);
    }
    block = table[page];
  }
  // The key page to load now.
  __device__ __forceinline__ const T* take() {
    const T* memory = cache + int64_t{2} * block * valueOffset;
    page += kDecodeWarps;
    find(static_cast<int>(threadIdx.x) / 32);
    return memory;
  }
};

template <class T, int D, int kTiles>
struct DecodeWarp {
  static constexpr int kSteps = D / 16;
  uint32_t q[kTiles][kSteps][2];  // row g of each 8-row tile
  int pos[kTiles][2];             // of rows 2t, 2t + 1
  float slope[kTiles][2];
  uint32_t k[2][kSteps][2];  // keys g and g + 8 of a page
  uint32_t v[4][kSteps];     // values 2t, 2t + 1, 2t + 8, 2t + 9
  float m[kTiles][2], l[kTiles][2];
  float o[kTiles][kSteps][4];  // (dimension valueDim(word, g); rows 2t, 2t + 1), (the next dimension; same rows)

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 2; ++c) m[tile][c] = negativeInfinity(), l[tile][c] = 0;
#pragma unroll
      for (int w = 0; w < kSteps; ++w)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[tile][w][c] = 0;
    }
  }

  __device__ __forceinline__ void loadKeys(const T* page, int g, int t) {
    loadKey<T, D>(k[0], page + g * D, t);
    loadKey<T, D>(k[1], page + (g + 8) * D, t);
  }
  __device__ __forceinline__ void loadValues(const T* page, int g, int t) {
    loadValue<T, D>(v[0], page + (2 * t) * D, g);
    loadValue<T, D>(v[1], page + (2 * t + 1) * D, g);
    loadValue<T, D>(v[2], page + (2 * t + 8) * D, g);
    loadValue<T, D>(v[3], page + (2 * t + 9) * D, g);
  }
  // Slots that hold no attended key may hold anything: 0 * NaN is NaN.
  __device__ __forceinline__ void clearValues(int firstKey, int lo, int hi, int t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = firstKey + 2 * t + (i & 1) + (i & 2) * 4;
      if (key < lo || key >= hi)
#pragma unroll
        for (int w = 0; w < kSteps; ++w) v[i][w] = 0;
    }
  }

  __device__ __forceinline__ void scores(float (&s)[kTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 4; ++c) s[tile][c] = 0;
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        mma<T>(s[tile], k[0][step][0], k[1][step][0], k[0][step][1], k[1][step][1], q[tile][step][0], q[tile][step][1]);
    }
  }

  // s: (key g; rows 2t, 2t + 1), (key g + 8; same rows).
  __device__ __forceinline__ void logits(float (&s)[kTiles][4], const Logits& logit, int firstKey, const volatile KeyRange& keys, int g) {
    const int window = keys.window;
    const bool edge = firstKey + kPageTokens - 1 > keys.minPos || (window > 0 && firstKey <= keys.maxPos - window);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int distance = firstKey + g + (c & 2) * 4 - pos[tile][c & 1];
        s[tile][c] = logit(s[tile][c], slope[tile][c & 1], distance);
        if (edge && (distance > 0 || (window > 0 && distance <= -window))) s[tile][c] = negativeInfinity();
      }
  }

  // Turns logits into weights relative to the new maximum and brings o and l to it. p: the weights as right operands.
  __device__ __forceinline__ void weights(float (&s)[kTiles][4], uint32_t (&p)[kTiles][2]) {
    float alpha[kTiles][2];
    bool moved = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float top = fmaxf(s[tile][c], s[tile][c + 2]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        top = fmaxf(m[tile][c], top);
        const float base = top == negativeInfinity() ? 0.0f : top;
        alpha[tile][c] = exp2Fast(m[tile][c] - base);
        moved |= alpha[tile][c] != 1.0f;
        m[tile][c] = top;
        s[tile][c] = exp2Fast(s[tile][c] - base);
        s[tile][c + 2] = exp2Fast(s[tile][c + 2] - base);
        l[tile][c] = l[tile][c] * alpha[tile][c] + (s[tile][c] + s[tile][c + 2]);
      }
      p[tile][0] = transpose8x8(packPair<T>(s[tile][0], s[tile][1]));
      p[tile][1] = transpose8x8(packPair<T>(s[tile][2], s[tile][3]));
    }
    if (!__any_sync(0xffffffffu, moved)) return;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int w = 0; w < kSteps; ++w)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[tile][w][c] *= alpha[tile][c & 1];
  }

  __device__ __forceinline__ void addValues(const uint32_t (&p)[kTiles][2]) {
#pragma unroll
    for (int w = 0; w < kSteps; ++w) {
      const uint32_t a0 = __byte_perm(v[0][w], v[1][w], 0x5410), a1 = __byte_perm(v[0][w], v[1][w], 0x7632);
      const uint32_t a2 = __byte_perm(v[2][w], v[3][w], 0x5410), a3 = __byte_perm(v[2][w], v[3][w], 0x7632);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma<T>(o[tile][w], a0, a1, a2, a3, p[tile][0], p[tile][1]);
    }
  }

  // Loads the warp's first page, if it has any.
  __device__ __forceinline__ void begin(PageStream<T>& pages, int lane) {
    if (!pages.more) return;
    const T* page = pages.take();
    loadKeys(page, lane / 4, lane % 4);
    loadValues(page + pages.valueOffset, lane / 4, lane % 4);
  }

  // Attends the page of `firstKey`, which is loaded. The next page's keys load during its softmax and its product with the values, the
  // next values during the next scores.
  __device__ __forceinline__ void attend(PageStream<T>& pages, const volatile KeyRange& keys, const Logits& logit, int firstKey, int lane) {
    const int g = lane / 4, t = lane % 4;
    float s[kTiles][4];
    uint32_t p[kTiles][2];
    scores(s);
    const bool more = pages.more;
    const T* next = nullptr;
    if (more) {
      next = pages.take();
      loadKeys(next, g, t);
    }
    logits(s, logit, firstKey, keys, g);
    weights(s, p);
    const int lo = keys.lo, hi = keys.hi;
    if (firstKey < lo || firstKey + kPageTokens > hi) clearValues(firstKey, lo, hi, t);
    addValues(p);
    if (more) loadValues(next + pages.valueOffset, g, t);
  }

  // Stores the first `rows` rows as records [D values, m, l] of `stride` floats.
  __device__ __forceinline__ void store(float* records, int stride, int rows, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float sum = l[tile][c];
#pragma unroll
        for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        const int row = tile * 8 + 2 * t + c;
        if (row < rows) {
          float* record = records + row * stride;
          if (g == 0) record[D] = m[tile][c], record[D + 1] = sum;
#pragma unroll
          for (int w = 0; w < kSteps; ++w)
            *reinterpret_cast<float2*>(record + valueDim<D>(w, g)) = make_float2(o[tile][w][c], o[tile][w][c + 2]);
        }
      }
  }
};

}  // namespace kvasir::cuda::attention
