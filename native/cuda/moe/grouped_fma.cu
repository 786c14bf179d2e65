// moeLinear without tensor cores: float32, and whatever is too unaligned for them.
#include "cuda/moe/grouped.cuh"

namespace kvasir::cuda {

namespace {

constexpr int kColumns = 64, kSlice = 16, kThreads = 256, kEach = 4;

// A block computes [kRows pairs, 64 features] of one expert, a thread kRows / 16 pairs x 4 features, over slices of 16 of k, in the order of
// k. Grid: (blocks of the table, features / 64, parts of kRows pairs of a block).
template <class T, int kRows>
__global__ void __launch_bounds__(kThreads) groupedFmaKernel(const GroupedArgs a) {
  constexpr int kRowsEach = kRows / 16;
  __shared__ __align__(16) float xs[kSlice][kRows + 4];
  __shared__ __align__(16) float ws[kSlice][kColumns + 4];
  letNextStart();
  waitForPrevious();
  const int32_t* block = a.blocks + static_cast<int64_t>(blockIdx.x) * (1 + a.blockRows);
  const int expert = block[0], row0 = static_cast<int>(blockIdx.z) * kRows;
  if (static_cast<unsigned>(expert) >= static_cast<unsigned>(a.numExperts)) return;
  if (pairAt(a, block, row0) < 0) return;  // pairs come first
  const int64_t column0 = static_cast<int64_t>(blockIdx.y) * kColumns;
  const T* const w = static_cast<const T*>(a.weights) + expert * a.expertStride;
  const int depth = threadIdx.x % kSlice, line = threadIdx.x / kSlice;  // what this thread loads: element `depth` of every 16th row from `line` on
  const auto pairOf = [&](int row) { return row0 + row < a.blockRows ? pairAt(a, block, row0 + row) : -1; };
  const T* rows[kRowsEach];
#pragma unroll
  for (int i = 0; i < kRowsEach; ++i) {
    const int pair = pairOf(line + 16 * i);
    rows[i] = pair < 0 ? nullptr : rowOf<T>(a, pair);
  }

  float sum[kRowsEach][kEach] = {};
  const int ty = threadIdx.x / (kColumns / kEach), tx = threadIdx.x % (kColumns / kEach);
  for (int64_t k0 = 0; k0 < a.k; k0 += kSlice) {
    const int64_t k = k0 + depth;
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) xs[depth][line + 16 * i] = rows[i] && k < a.k ? toFloatDevice(rows[i][k]) : 0.0f;
#pragma unroll
    for (int i = line; i < kColumns; i += 16) ws[depth][i] = column0 + i < a.n && k < a.k ? toFloatDevice(w[(column0 + i) * a.k + k]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kSlice; ++d) {
      const float4 wv = *reinterpret_cast<const float4*>(&ws[d][tx * kEach]);
      const float right[kEach] = {wv.x, wv.y, wv.z, wv.w};
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(xs[d][ty * kRowsEach + i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRowsEach; ++i) {
    const int pair = pairOf(ty * kRowsEach + i);
    if (pair < 0) continue;
#pragma unroll
    for (int j = 0; j < kEach; j += 2) storeTwo<T>(a, pair, column0 + tx * kEach + j, sum[i][j], sum[i][j + 1]);
  }
}

}  // namespace

void launchGroupedFma(const GroupedArgs& args, DType dtype, Chain chain) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const bool low = args.blockRows <= 16;
    const dim3 grid(static_cast<unsigned>(args.numBlocks), static_cast<unsigned>(ceilDiv(args.n, kColumns)), static_cast<unsigned>(ceilDiv(args.blockRows, low ? 16 : 64)));
    launchChained(chain, low ? groupedFmaKernel<T, 16> : groupedFmaKernel<T, 64>, grid, kThreads, args);
  });
}

}  // namespace kvasir::cuda
