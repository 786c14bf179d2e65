// One warp's part of prefill attention: two tensor core products over a stage of keys in shared memory, and the softmax between them.
// In the comments g = lane / 4 and t = lane % 4.
#pragma once

#include "cuda/attention/prefill_tile.cuh"
#include "cuda/attention/softmax.cuh"

namespace kvasir::cuda::attention {

inline constexpr float kLowest = -1e30f;  // below every logit; finite, so that differences are
inline constexpr float kSlack = 8.0f;

// kM x 16 rows of one warp.
template <class T, int D, int kM>
struct PrefillWarp {
  static constexpr int kSteps = D / 16;
  static constexpr bool kKeepQueries = kM * D <= 128;  // there are registers for them
  uint32_t q[kKeepQueries ? kSteps : 1][kM][4];
  float o[kM][D / 8][4];
  float m[kM][2], l[kM][2];  // of rows g and g + 8; m in base 2, l of this lane's keys only
  int low, last;             // the warp's first row and the tile's last, counted in the sequence
  int minPos, maxPos;

  __device__ __forceinline__ void begin(const Arguments& a, const PrefillTile& tile, int context, int firstRow) {
    last = tile.first + tile.rows - 1;
    low = tile.first + firstRow;
    minPos = context + min(low, last) / a.group;
    maxPos = context + min(low + kM * 16 - 1, last) / a.group;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) m[i][c] = kLowest, l[i][c] = 0;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][n][c] = 0;
    }
  }
  // Rows past the tile count as its last. Worked out where it is needed, because registers are short.
  __device__ __forceinline__ int rowOf(int i, int c, int g) const { return min(low + i * 16 + c * 8 + g, last); }
  __device__ __forceinline__ int positionOf(const Arguments& a, int row) const { return maxPos + row / a.group - min(low + kM * 16 - 1, last) / a.group; }

  // The address of chunk `chunk` further, from that of a row's chunk 0 or 1; swizzled with `own`.
  __device__ __forceinline__ static uint32_t along(uint32_t row, int own, int chunk) {
    if constexpr (D == 64 || D == 128 || D == 256) return (row + (own << 4)) ^ static_cast<uint32_t>(chunk << 4);  // rows do not straddle
    else return row + ((own ^ chunk) << 4);
  }
  __device__ __forceinline__ static void loadQueries(uint32_t (&to)[kM][4], uint32_t queries, int step, int lane) {
    const uint32_t row = queries + (lane % 16) * (D * 2);
#pragma unroll
    for (int i = 0; i < kM; ++i) loadMatrices(to[i], along(row, lane / 16 ^ Swizzle<D>::bits(lane % 8), 2 * step) + i * 16 * (D * 2));
  }
  __device__ __forceinline__ void keepQueries(uint32_t queries, int lane) {
    if constexpr (kKeepQueries)
#pragma unroll
      for (int step = 0; step < kSteps; ++step) loadQueries(q[step], queries, step, lane);
  }

  // s[i][n]: (row g; keys 8n + 2t, 8n + 2t + 1), (row g + 8; same keys). Operands are loaded one product ahead.
  __device__ __forceinline__ void scores(float (&s)[kM][8][4], uint32_t queries, uint32_t keys, int lane) {
    const uint32_t row = keys + (lane % 8 + lane / 16 * 8) * (D * 2);
    const int own = (lane / 8 & 1) ^ Swizzle<D>::bits(lane % 8);
    uint32_t k[2][4], loaded[2][kM][4];
    if constexpr (!kKeepQueries) loadQueries(loaded[0], queries, 0, lane);
    loadMatrices(k[0], along(row, own, 0));
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) s[i][n][c] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        const int at = n / 2 % 2;
        if (n < 6) loadMatrices(k[1 - at], along(row, own, 2 * step) + (n + 2) * 8 * (D * 2));
        else if (step + 1 < kSteps) loadMatrices(k[1 - at], along(row, own, 2 * step + 2));
        if constexpr (!kKeepQueries)
          if (n == 2 && step + 1 < kSteps) loadQueries(loaded[(step + 1) % 2], queries, step + 1, lane);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          uint32_t a[4];
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if constexpr (kKeepQueries) a[e] = q[step][i][e];
            else a[e] = loaded[step % 2][i][e];
          mma<T>(s[i][n], a[0], a[1], a[2], a[3], k[at][0], k[at][1]);
          mma<T>(s[i][n + 1], a[0], a[1], a[2], a[3], k[at][2], k[at][3]);
        }
      }
  }

  __device__ __forceinline__ void applyHooks(float (&s)[kM][8][4], const Arguments& a, int kvHead, int firstKey, int lane) const {
    const Logits logit(a);
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int row = rowOf(i, c, lane / 4), first = firstKey + lane % 4 * 2 - positionOf(a, row);
        const float slope = a.slopes ? a.slopes[kvHead * a.group + row % a.group] * kLog2e : 0.0f;
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) s[i][n][2 * c + e] = logit(s[i][n][2 * c + e], slope, first + 8 * n + e);
      }
  }

  __device__ __forceinline__ void mask(float (&s)[kM][8][4], const Arguments& a, int firstKey, int lane) const {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int first = firstKey + lane % 4 * 2 - positionOf(a, rowOf(i, c, lane / 4));
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int distance = first + 8 * n + e;
            if (distance > 0 || (a.window > 0 && distance <= -a.window)) s[i][n][2 * c + e] = negativeInfinity();
          }
      }
  }

  // Raises the maxima that weights are relative to, and brings o and l to them. A row's stays while no score is more than 2^kSlack times
  // as heavy: what matters is only that weights neither overflow nor vanish.
  __device__ __forceinline__ void raise(const float (&s)[kM][8][4], float unit) {
    float alpha[kM][2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float top = fmaxf(s[i][0][2 * c], s[i][0][2 * c + 1]);
#pragma unroll
        for (int n = 1; n < 8; ++n) top = fmaxf(top, fmaxf(s[i][n][2 * c], s[i][n][2 * c + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = __fmul_rn(fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)), unit);
        const bool up = top > m[i][c] + kSlack;
        alpha[i][c] = up ? exp2Fast(m[i][c] - top) : 1.0f;
        if (up) m[i][c] = top;
        moved |= up;
      }
    if (!__any_sync(0xffffffffu, moved)) return;
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) l[i][c] *= alpha[i][c];
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][n][c] *= alpha[i][c / 2];
    }
  }

  // Turns the scores of 16 keys into weights, as left operands.
  __device__ __forceinline__ void weigh(uint32_t (&p)[kM][4], const float (&s)[kM][8][4], int k, float unit) {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float w[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) w[e] = exp2Fast(fmaf(s[i][2 * k + e / 2][2 * c + e % 2], unit, -m[i][c]));
        l[i][c] += (w[0] + w[1]) + (w[2] + w[3]);
        p[i][c] = packPair<T>(w[0], w[1]);
        p[i][2 + c] = packPair<T>(w[2], w[3]);
      }
  }

  // o += exp2(unit * s - m) * values. The next weights and values are made and loaded while products are under way.
  __device__ __forceinline__ void addValues(const float (&s)[kM][8][4], uint32_t values, float unit, int lane) {
    const int own = lane / 16 ^ Swizzle<D>::bits(lane % 8);
    const uint32_t row = values + (lane % 16) * (D * 2);
    uint32_t v[2][4], p[2][kM][4];
    loadMatricesTransposed(v[0], along(row, own, 0));
    weigh(p[0], s, 0, unit);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < 3) weigh(p[(k + 1) % 2], s, k + 1, unit);
#pragma unroll
      for (int n = 0; n < D / 8; n += 2) {
        const int at = k * (D / 16) + n / 2, next = at + 1;
        if (next < D / 4) loadMatricesTransposed(v[next % 2], along(row, own, next % (D / 16) * 2) + next / (D / 16) * 16 * (D * 2));
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          const auto& w = p[k % 2][i];
          mma<T>(o[i][n], w[0], w[1], w[2], w[3], v[at % 2][0], v[at % 2][1]);
          mma<T>(o[i][n + 1], w[0], w[1], w[2], w[3], v[at % 2][2], v[at % 2][3]);
        }
      }
    }
  }

  __device__ __forceinline__ void attend(const Arguments& a, int kvHead, int stage, uint32_t queries, uint32_t keys, uint32_t values, bool hooks,
                                         float unit) {
    const int lane = threadAgain() % 32;
    const int firstKey = stage * kStageKeys, lastKey = firstKey + kStageKeys - 1;
    if (firstKey > maxPos || (a.window > 0 && lastKey <= minPos - a.window)) return;  // nothing that these rows attend
    float s[kM][8][4];
    scores(s, queries, keys, lane);
    if (hooks) applyHooks(s, a, kvHead, firstKey, lane);
    if (lastKey > minPos || (a.window > 0 && firstKey <= maxPos - a.window)) mask(s, a, firstKey, lane);
    raise(s, unit);
    addValues(s, values, unit, lane);
  }

  // Writes the rows by way of the warp's own queries, which are not needed any more.
  __device__ __forceinline__ void finish(const Arguments& a, const PrefillTile& tile, char* memory, int firstRow, float unit, int lane) {
    constexpr int kChunks = D / 8;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float sum = l[i][c];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float factor = finalFactor(m[i][c], sum, a.sinks ? a.sinks + tile.kvHead * a.group + rowOf(i, c, lane / 4) % a.group : nullptr,
                                         a.valueScale);
        const int row = firstRow + i * 16 + c * 8 + lane / 4;
#pragma unroll
        for (int n = 0; n < kChunks; ++n)
          *reinterpret_cast<uint32_t*>(memory + Swizzle<D>::offset(row, n) + lane % 4 * 4) = packPair<T>(o[i][n][2 * c] * factor, o[i][n][2 * c + 1] * factor);
      }
    __syncwarp();
    for (int i = lane; i < kM * 16 * kChunks; i += 32) {
      const int row = firstRow + i / kChunks, chunk = i % kChunks;
      if (row < tile.rows)
        reinterpret_cast<uint4*>(prefillOut<T, D>(a, tile, row))[chunk] = *reinterpret_cast<const uint4*>(memory + Swizzle<D>::offset(row, chunk));
    }
  }
};

}  // namespace kvasir::cuda::attention
