// Linear: out = x @ weight^T + bias. See gemm_job.h for how a multiplication is cut.
#include "cpu/gemm.h"

#include <algorithm>

#include "cpu/gemm_job.h"

namespace kvasir::cpu {

namespace {

constexpr int64_t kWidenBytes = 8 << 20;  // of x converted to float32 at a time

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void linear(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  const int64_t rows = x.dim(0), k = x.dim(1), n = out.dim(1);
  if (rows == 0 || n == 0) return;
  const bool packed = weight.layout == Layout::Packed;
  const Isa level = isa();
  const DType block = packed ? weight.dtype : DType::Float32;
  const GemmKernels tiles = tileKernels(level, block);
  const RowKernels row = rowKernels(level);
  const bool convert = tiles.activation != x.dtype;
  const int64_t xRowBytes = ceilDiv(k * 4, 64) * 64;
  const int64_t step = convert ? std::max(kMaxChunkRows, kWidenBytes / std::max<int64_t>(1, xRowBytes)) : rows;

  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const bool alone = pool.size() == 1 || worthOneThread(count, k, n, elementSize(block));
    GemmJob job{makeGemmPlan(count, k, n, elementSize(block), alone ? 1 : 4 * pool.size()), tiles, row, weight, block, bias, nullptr, 0,
            out.ptr<char>() + first * out.stride(0) * elementSize(out.dtype), out.stride(0), out.dtype, pool.size()};
    const int64_t perThread = ceilDiv(job.scratchBytes(), 64) * 64, xBytes = convert ? count * xRowBytes : 0;
    char* shared = static_cast<char*>(pool.scratch(0, xBytes + perThread * pool.size()));
    const char* source = x.ptr<char>() + first * x.stride(0) * elementSize(x.dtype);
    job.x = convert ? shared : source;
    job.xStride = convert ? xRowBytes / 4 : x.stride(0);
    if (convert) {
      const int64_t grain = alone ? count : std::max<int64_t>(1, (32 << 10) / std::max<int64_t>(1, k));
      pool.forRange(count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r)
          row.widen(x.dtype, source + r * x.stride(0) * elementSize(x.dtype), k, reinterpret_cast<float*>(shared + r * xRowBytes));
      });
    }
    const int64_t chunks = job.plan.chunks();
    if (alone)
      for (int64_t c = 0; c < chunks; ++c) job.chunk(c, shared + xBytes);
    else
      pool.run(chunks, [&](int64_t c, int thread) { job.chunk(c, shared + xBytes + thread * perThread); });
  }
}

}  // namespace kvasir::cpu
