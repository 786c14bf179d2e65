// The grouped multiplication of a mixture of experts. Experts are taken in groups whose rows of x fit a gather buffer: the rows are
// copied side by side (converted to what the tiles read), then the chunks of all multiplications of the group are one job of the pool.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/gemm_job.h"
#include "cpu/moe.h"

namespace kvasir::cpu {

namespace {

constexpr int64_t kGatherBytes = 8 << 20;  // of x at a time

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Consecutive pairs of `pairs` that belong to one expert.
struct Segment {
  int32_t expert;
  int64_t first, count;
};

struct Pairs {
  std::vector<int32_t> pairs;
  std::vector<Segment> segments;
};

Pairs readBlocks(const Tensor& blocks, int64_t numExperts, int64_t numPairs, int64_t mostRows) {
  Pairs found;
  found.pairs.reserve(static_cast<size_t>(numPairs));
  const int64_t width = blocks.dim(1);
  for (int64_t b = 0; b < blocks.dim(0); ++b) {
    const int32_t* block = blocks.ptr<int32_t>() + b * width;
    if (block[0] < 0 || block[0] >= numExperts) continue;
    for (int64_t i = 1; i < width; ++i) {
      if (block[i] < 0 || block[i] >= numPairs) continue;
      if (found.segments.empty() || found.segments.back().expert != block[0] || found.segments.back().count == mostRows)
        found.segments.push_back({block[0], static_cast<int64_t>(found.pairs.size()), 0});
      found.pairs.push_back(block[i]);
      ++found.segments.back().count;
    }
  }
  return found;
}

struct Call {
  Pool& pool;
  const Tensor &out, &x, &weights;
  GemmKernels tiles;
  RowKernels row;
  DType block;
  int64_t xRowBytes;  // of a gathered row
  const std::vector<int32_t>& pairs;

  Tensor weightOf(int32_t expert) const;
  void gather(char* to, int64_t first, int64_t count, bool alone) const;
  void run(const Segment* begin, const Segment* end) const;
};

Tensor Call::weightOf(int32_t expert) const {
  Tensor w = weights;
  w.data = weights.ptr<char>() + expert * weights.dim(1) * weights.dim(2) * elementSize(weights.dtype);
  w.rank = 2;
  w.dims[0] = weights.dim(1), w.dims[1] = weights.dim(2);
  w.strides[0] = weights.dim(2), w.strides[1] = 1;
  return w;
}

void Call::gather(char* to, int64_t first, int64_t count, bool alone) const {
  const int64_t k = x.dim(1), choices = out.dim(0) / x.dim(0), bytes = elementSize(x.dtype);
  const int64_t grain = alone ? count : std::max<int64_t>(1, (32 << 10) / std::max<int64_t>(1, k));
  pool.forRange(count, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const char* from = x.ptr<char>() + pairs[static_cast<size_t>(first + r)] / choices * x.stride(0) * bytes;
      if (tiles.activation == x.dtype) std::memcpy(to + r * xRowBytes, from, static_cast<size_t>(k * bytes));
      else row.widen(x.dtype, from, k, reinterpret_cast<float*>(to + r * xRowBytes));
    }
  });
}

// The multiplications of some segments.
void Call::run(const Segment* begin, const Segment* end) const {
  const int64_t k = x.dim(1), n = out.dim(1), first = begin->first, rows = end[-1].first + end[-1].count - first;
  const bool alone = pool.size() == 1 || (worthOneThread(rows, k, n, elementSize(block)) && worthOneThread(1, k, n * (end - begin), elementSize(block)));
  const int64_t wanted = alone ? 1 : ceilDiv(4 * pool.size(), end - begin);
  std::vector<GemmJob> jobs;
  std::vector<int64_t> chunkEnds;
  int64_t chunks = 0, perThread = 0;
  for (const Segment* s = begin; s != end; ++s) {
    GemmJob job{makeGemmPlan(s->count, k, n, elementSize(block), wanted), tiles, row, weightOf(s->expert), block, std::nullopt, nullptr,
                xRowBytes / elementSize(tiles.activation), out.ptr<char>(), out.stride(0), out.dtype, pool.size(), pairs.data() + s->first};
    perThread = std::max(perThread, ceilDiv(job.scratchBytes(), 64) * 64);
    chunkEnds.push_back(chunks += job.plan.chunks());
    jobs.push_back(job);
  }
  char* const shared = static_cast<char*>(pool.scratch(0, rows * xRowBytes + perThread * pool.size()));
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].x = shared + (begin[i].first - first) * xRowBytes;
  gather(shared, first, rows, alone);
  const auto chunk = [&](int64_t c, int thread) {
    const size_t job = static_cast<size_t>(std::upper_bound(chunkEnds.begin(), chunkEnds.end(), c) - chunkEnds.begin());
    jobs[job].chunk(job ? c - chunkEnds[job - 1] : c, shared + rows * xRowBytes + thread * perThread);
  };
  if (!alone) return pool.run(chunks, chunk);
  for (int64_t c = 0; c < chunks; ++c) chunk(c, 0);
}

}  // namespace

void moeLinear(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks) {
  const int64_t k = x.dim(1);
  if (out.numel() == 0) return;
  const DType block = weights.layout == Layout::Packed ? weights.dtype : DType::Float32;
  const GemmKernels tiles = tileKernels(isa(), block);
  const int64_t xRowBytes = ceilDiv(k * elementSize(tiles.activation), 64) * 64;
  const int64_t mostRows = std::max(kMaxChunkRows, kGatherBytes / std::max<int64_t>(1, xRowBytes));
  const Pairs found = readBlocks(blocks, weights.dim(0), out.dim(0), mostRows);
  const Call call{pool, out, x, weights, tiles, rowKernels(isa()), block, xRowBytes, found.pairs};
  const std::vector<Segment>& all = found.segments;
  for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    int64_t rows = 0;
    while (end < all.size() && rows + all[end].count <= mostRows) rows += all[end++].count;
    call.run(all.data() + begin, all.data() + end);
  }
}

}  // namespace kvasir::cpu
