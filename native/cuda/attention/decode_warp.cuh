// One warp's part of decode attention: tensor core products straight from registers, without shared memory. Scores are computed
// transposed (16 keys of a page x 8 query rows), and so is the output (dimensions x rows): keys and values are the left operand and
// nothing is wasted on absent rows. In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/decode_page.cuh"
#include "cuda/attention/softmax.cuh"

namespace kvasir::cuda::attention {

inline constexpr int kDecodeWarps = 4;

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
template <class C>
struct PageStream {
  const volatile BlockLeaves& leaves;
  const C* cache;        // the kv head's page of block 0
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
  __device__ __forceinline__ const C* take() {
    const C* memory = cache + int64_t{2} * block * valueOffset;
    page += kDecodeWarps;
    find(static_cast<int>(threadIdx.x) / 32);
    return memory;
  }
};

template <class T, class C, int D, int kTiles>
struct DecodeWarp {
  using Page = DecodePage<T, C, D>;
  static constexpr int kSteps = D / 16;
  uint32_t q[kTiles][kSteps][2];  // row g of each 8-row tile
  int pos[kTiles][2];             // of rows 2t, 2t + 1
  float slope[kTiles][2];
  Page held;
  float m[kTiles][2], l[kTiles][2];
  float o[kTiles][kSteps][4];  // (dimension Page::valueDim(word, g); rows 2t, 2t + 1), (the next dimension; same rows)

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

  // Slots that hold no attended key may hold anything: 0 * NaN is NaN.
  __device__ __forceinline__ void clearValues(int firstKey, int lo, int hi, int t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = firstKey + 2 * t + (i & 1) + (i & 2) * 4;
      if (key < lo || key >= hi) held.clearValue(i);
    }
  }

  __device__ __forceinline__ void scores(float (&s)[kTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int c = 0; c < 4; ++c) s[tile][c] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[4];
      held.keyOperand(step, a);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma<T>(s[tile], a[0], a[1], a[2], a[3], q[tile][step][0], q[tile][step][1]);
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
      uint32_t a[4];
      held.valueOperand(w, a);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma<T>(o[tile][w], a[0], a[1], a[2], a[3], p[tile][0], p[tile][1]);
    }
  }

  // Loads the warp's first page, if it has any.
  __device__ __forceinline__ void begin(PageStream<C>& pages, int lane) {
    if (!pages.more) return;
    const C* page = pages.take();
    held.loadKeys(page, lane / 4, lane % 4);
    held.loadValues(page + pages.valueOffset, lane % 4, lane / 4);
  }

  // Attends the page of `firstKey`, which is loaded. The next page's keys load during its softmax and its product with the values, the
  // next values during the next scores.
  __device__ __forceinline__ void attend(PageStream<C>& pages, const volatile KeyRange& keys, const Logits& logit, int firstKey, int lane) {
    const int g = lane / 4, t = lane % 4;
    float s[kTiles][4];
    uint32_t p[kTiles][2];
    scores(s);
    const bool more = pages.more;
    const C* next = nullptr;
    if (more) {
      next = pages.take();
      held.loadKeys(next, g, t);
    }
    logits(s, logit, firstKey, keys, g);
    weights(s, p);
    const int lo = keys.lo, hi = keys.hi;
    if (firstKey < lo || firstKey + kPageTokens > hi) clearValues(firstKey, lo, hi, t);
    addValues(p);
    if (more) held.loadValues(next + pages.valueOffset, t, g);
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
            *reinterpret_cast<float2*>(record + Page::valueDim(w, g)) = make_float2(o[tile][w][c], o[tile][w][c + 2]);
        }
      }
  }
};

}  // namespace kvasir::cuda::attention
