// Linear layers with quantized weights: prepares x for the tiles (widened, or rounded to int8 with scales), cuts the work into blocks of 32
// columns and rows of x, and runs the tiles. A block of weights is small enough for L2, so that the inputs are never cut.
#include "cpu/quant.h"

#include <algorithm>

#include "cpu/gemm_kernels.h"
#include "cpu/quant_pack.h"

namespace kvasir::cpu {

namespace {

constexpr int64_t kMaxChunkRows = 32 * kQuantTileRows;
constexpr int64_t kMinChunkRows = 4 * kQuantTileRows;
constexpr int64_t kSpanBytes = 256 << 10;  // weights per chunk, so that taking a chunk costs nothing beside it
constexpr int64_t kInputBytes = 8 << 20;   // of prepared x at a time
constexpr int64_t kAloneWork = 1 << 19;    // multiply-adds below which waking the pool costs more than it saves
constexpr int64_t kAloneBytes = 96 << 10;  // the same for weights streamed
constexpr int64_t kInputGap = 64;          // bytes between prepared rows: rows a power of two apart would share cache sets

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t aligned(int64_t bytes) { return ceilDiv(bytes, 64) * 64; }

struct Rows {
  RowKernels gemm;
  QuantRowKernels quant;
};

Rows rowKernels(Isa level) {
#ifdef KVASIR_X86
  if (level >= Isa::Avx512) return {avx512::gemmRowKernels(), avx512::quantRowKernels()};
  if (level >= Isa::Avx2) return {avx2::gemmRowKernels(), avx2::quantRowKernels()};
#endif
  (void)level;
  return {portable::gemmRowKernels(), portable::quantRowKernels()};
}

#ifdef KVASIR_X86
bool hasVbmi() {
  static const bool has = __builtin_cpu_supports("avx512vbmi");
  return has;
}
#endif

// What one call multiplies. group in inputs, padded with x to whole words when there is one.
struct Call {
  QuantWeight kind;
  const Tensor& out;
  const Tensor& x;
  const Tensor& weight;
  const Tensor& scales;
  const MaybeTensor& zeros;
  const MaybeTensor& bias;
  bool dynamic;
  int64_t blockN, k, padded, groups, group;

  int64_t blockBytes() const { return padded / quantUnit(kind) * kQuantRows * 4; }
  bool packed() const { return weight.layout == Layout::Packed; }
};

Call makeCall(QuantWeight kind, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
              const MaybeTensor& bias, bool dynamic, int64_t blockN, int64_t group) {
  Call c{kind, out, x, weight, scales, zeros, bias, dynamic, blockN, x.dim(1), 0, 0, 0};
  c.padded = ceilDiv(c.k, quantUnit(kind)) * quantUnit(kind);
  c.groups = ceilDiv(c.k, group);
  c.group = c.groups == 1 ? c.padded : group;
  return c;
}

QuantKernels tileKernels(Isa level, const Call& c) {
#ifdef KVASIR_X86
  const bool zeros = c.zeros.has_value();
  if (c.x.dtype != DType::Float32) {
    if (c.dynamic && level >= Isa::Avx512Bf16) return avx512bf16::quantDotKernels(c.kind, zeros);
    if (c.dynamic && level >= Isa::Avx2 && c.kind == QuantWeight::Int4) return avx2::quantInt4DotKernels(zeros);
  }
  if (c.x.dtype == DType::BFloat16 && level >= Isa::Avx512Bf16) {
    if (c.kind == QuantWeight::Int4) return avx512bf16::quantInt4Kernels(zeros);
    if (c.kind == QuantWeight::Fp8 && hasVbmi()) return avx512vbmi::quantFp8Kernels();
  }
  if (level >= Isa::Avx512) return avx512::quantKernels(c.kind);
  if (level >= Isa::Avx2) return avx2::quantKernels(c.kind);
#endif
  (void)level;
  return portable::quantKernels(c.kind);
}

// How the work is cut. A chunk is `span` blocks of weights for `chunkRows` rows of x.
struct Plan {
  int64_t blocks, chunkRows, rowChunks, span, spans;
  bool alone;
};

Plan makePlan(int64_t rows, int64_t n, const Call& c, int threads) {
  Plan p{};
  p.blocks = ceilDiv(n, kQuantRows);
  const int64_t blockBytes = c.blockBytes();
  p.alone = threads == 1 || (rows * c.k * n < kAloneWork && p.blocks * blockBytes < kAloneBytes);
  const int64_t wanted = p.alone ? 1 : 4 * threads;  // chunks, so that threads that run late hold up the others little
  int64_t chunkRows = std::min(rows, kMaxChunkRows);
  if (p.blocks < wanted) chunkRows = std::clamp(ceilDiv(rows * p.blocks, wanted), std::min(rows, kMinChunkRows), chunkRows);
  p.rowChunks = ceilDiv(rows, chunkRows);
  p.chunkRows = ceilDiv(ceilDiv(rows, p.rowChunks), kQuantTileRows) * kQuantTileRows;
  p.rowChunks = ceilDiv(rows, p.chunkRows);
  const int64_t most = std::max<int64_t>(1, p.blocks * p.rowChunks / wanted);
  p.span = std::clamp<int64_t>(ceilDiv(kSpanBytes, blockBytes * ceilDiv(std::min(rows, p.chunkRows), kQuantTileRows)), 1, most);
  p.spans = ceilDiv(p.blocks, p.span);
  return p;
}

// x as the tiles read it, rows [0, count) of a step.
struct Input {
  const char* x;
  int64_t stride;  // bytes
  const float* factors;
  const void* sums;
  int64_t factorStride, sumStride;
};

// Memory for it: rows of x, then factors and sums of its rows.
struct InputLayout {
  bool direct;  // x is what the tiles want already
  int64_t rowBytes, factors, sums;  // numbers per row

  InputLayout(const Call& c, QuantInput input) {
    const int64_t size = input == QuantInput::Int8 ? 1 : input == QuantInput::BFloat16 ? 2 : 4;
    direct = c.k == c.padded && ((input == QuantInput::Float32 && c.x.dtype == DType::Float32) ||
                                 (input == QuantInput::BFloat16 && c.x.dtype == DType::BFloat16));
    rowBytes = direct ? 0 : aligned(c.padded * size) + kInputGap;
    factors = input == QuantInput::Int8 ? 1 + quantSpans(c.groups, c.group) : 0;
    sums = input == QuantInput::Int8 ? c.groups * quantChunks(c.group) : input == QuantInput::BFloat16 && c.zeros ? c.groups : 0;
  }
  int64_t bytes(int64_t rows) const { return aligned(rows * rowBytes) + aligned(rows * factors * 4) + aligned(rows * sums * 4); }
};

void prepareRow(const Call& c, QuantInput input, const Rows& kernels, const char* from, char* x, float* factors, void* sums) {
  switch (input) {
    case QuantInput::Int8: {
      const QuantSums kind = c.zeros ? QuantSums::Words : c.kind == QuantWeight::Int4 ? QuantSums::Times8 : QuantSums::Times128;
      return kernels.quant.quantize(c.x.dtype, from, c.k, c.padded, c.group, c.kind == QuantWeight::Int4, kind, reinterpret_cast<int8_t*>(x), factors,
                                    static_cast<int32_t*>(sums));
    }
    case QuantInput::BFloat16:
      if (c.zeros) kernels.quant.groupSums(c.x.dtype, from, c.k, c.group, static_cast<float*>(sums));
      if (!x) return;
      std::copy_n(from, c.k * 2, x);
      return std::fill(x + c.k * 2, x + c.padded * 2, char{0});
    case QuantInput::Float32:
      if (!x) return;
      kernels.gemm.widen(c.x.dtype, from, c.k, reinterpret_cast<float*>(x));
      return std::fill(x + c.k * 4, x + c.padded * 4, char{0});
  }
}

Input prepare(Pool& pool, const Call& c, QuantInput input, const Rows& kernels, const char* source, int64_t rows, char* memory, bool alone) {
  const InputLayout layout(c, input);
  const int64_t sourceStride = c.x.stride(0) * elementSize(c.x.dtype);
  float* factors = reinterpret_cast<float*>(memory + aligned(rows * layout.rowBytes));
  char* sums = reinterpret_cast<char*>(factors) + aligned(rows * layout.factors * 4);
  if (!layout.direct || layout.sums) {
    const int64_t grain = alone ? rows : std::max<int64_t>(1, (32 << 10) / std::max<int64_t>(1, c.k));
    pool.forRange(rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r)
        prepareRow(c, input, kernels, source + r * sourceStride, layout.direct ? nullptr : memory + r * layout.rowBytes, factors + r * layout.factors,
                   sums + r * layout.sums * 4);
    });
  }
  return {layout.direct ? source : memory, layout.direct ? sourceStride : layout.rowBytes, factors, sums, layout.factors, layout.sums};
}

// Memory of a thread.
struct Scratch {
  float* sums;      // [6][32]
  float* bias;      // [32]
  char* scales;     // [groups][32]
  uint8_t* zeros;   // [groups][32]
  char* weight;     // a block, packed

  static int64_t bytes(const Call& c, int64_t n) {
    const bool panels = !c.packed() || n % kQuantRows != 0;
    const int64_t scaleBytes = panels || c.kind == QuantWeight::Fp8 ? aligned(c.groups * kQuantRows * 4) : 0;
    return (kQuantTileRows + 1) * kQuantRows * 4 + scaleBytes + (panels ? aligned(c.groups * kQuantRows) + c.blockBytes() : 0);
  }
  Scratch(const Call& c, char* memory) {
    sums = reinterpret_cast<float*>(memory);
    bias = sums + kQuantTileRows * kQuantRows;
    scales = reinterpret_cast<char*>(bias + kQuantRows);
    zeros = reinterpret_cast<uint8_t*>(scales + aligned(c.groups * kQuantRows * 4));
    weight = reinterpret_cast<char*>(zeros) + aligned(c.groups * kQuantRows);
  }
};

// [groups][32] scales of the rows from `first`; those of missing rows are never used.
const float* fp8Scales(const Call& c, int64_t first, int64_t columns, float* to) {
  const float* from = c.scales.ptr<const float>();
  if (c.blockN == 1 && c.groups == 1 && columns == kQuantRows) return from + first;
  const int64_t last = first + columns - 1;
  const bool same = first / c.blockN == last / c.blockN;
  for (int64_t g = 0; g < c.groups; ++g) {
    if (same) std::fill_n(to + g * kQuantRows, kQuantRows, from[first / c.blockN * c.groups + g]);
    else
      for (int64_t j = 0; j < kQuantRows; ++j) to[g * kQuantRows + j] = from[std::min(first + j, last) / c.blockN * c.groups + g];
  }
  return to;
}

// Points the tile at block b, packing what is not packed.
void useBlock(const Call& c, int64_t b, int64_t columns, const Scratch& scratch, QuantTile& t) {
  const bool packed = c.packed() && columns == kQuantRows;
  const int64_t first = b * kQuantRows, rowBytes = c.weight.dim(1);
  t.weight = c.weight.ptr<const char>() + first * rowBytes;
  if (!packed) {
    packQuantRows(c.kind, t.weight, rowBytes, columns, c.k, reinterpret_cast<uint32_t*>(scratch.weight));
    t.weight = scratch.weight;
  }
  t.scaleType = c.scales.dtype;
  if (c.kind == QuantWeight::Fp8) {
    t.scales = fp8Scales(c, first, columns, reinterpret_cast<float*>(scratch.scales));
    return;
  }
  const int64_t size = elementSize(c.scales.dtype);
  t.scales = c.scales.ptr<const char>() + first * c.groups * size;
  t.zeros = c.zeros ? c.zeros->ptr<const uint8_t>() + first * c.groups : nullptr;
  if (packed) return;
  packQuantGroups(t.scales, columns, c.groups, size, scratch.scales);
  t.scales = scratch.scales;
  if (!t.zeros) return;
  packQuantGroups(t.zeros, columns, c.groups, 1, scratch.zeros);
  t.zeros = scratch.zeros;
}

// One step of rows of a call.
struct Job {
  const Call& call;
  const Plan& plan;
  const QuantKernels& tiles;
  const Rows& kernels;
  Input input;
  int64_t firstRow, rows;
  int threads;

  void blockRows(int64_t b, const char* after, int64_t row0, int64_t row1, const Scratch& scratch) const;
  void chunk(int64_t index, char* memory) const;
};

// Rows [row0, row1) of the columns of block b; `after` (or null) is the block that this thread reads next.
void Job::blockRows(int64_t b, const char* after, int64_t row0, int64_t row1, const Scratch& scratch) const {
  const Tensor& out = call.out;
  const int64_t columns = std::min<int64_t>(kQuantRows, out.dim(1) - b * kQuantRows), outSize = elementSize(out.dtype);
  const int64_t count = row1 - row0, tileCount = ceilDiv(count, kQuantTileRows);
  QuantTile t{};
  t.xStride = input.stride, t.xFactorStride = input.factorStride, t.xSumStride = input.sumStride;
  t.k = call.padded, t.group = call.group, t.c = scratch.sums;
  useBlock(call, b, columns, scratch, t);
  const int64_t lines = tileCount > 1 && after && call.packed() ? call.blockBytes() / 64 : 0;
  const float* bias = nullptr;
  if (call.bias) {
    const Tensor& from = *call.bias;
    kernels.gemm.widen(from.dtype, from.ptr<const char>() + b * kQuantRows * elementSize(from.dtype), columns, scratch.bias);
    bias = scratch.bias;
  }
  for (int64_t i = 0; i < tileCount; ++i) {
    const int64_t r0 = row0 + count * i / tileCount, r1 = row0 + count * (i + 1) / tileCount;
    t.x = input.x + r0 * input.stride;
    t.xFactors = input.factors + r0 * input.factorStride;
    t.xSums = static_cast<const char*>(input.sums) + r0 * input.sumStride * 4;
    t.next = after + lines * i / tileCount * 64;
    t.nextLines = lines * (i + 1) / tileCount - lines * i / tileCount;
    tiles.tiles[r1 - r0 - 1](t);
    for (int64_t r = r0; r < r1; ++r)
      kernels.gemm.store(t.c + (r - r0) * kQuantRows, bias, columns, out.dtype,
                         out.ptr<char>() + ((firstRow + r) * out.stride(0) + b * kQuantRows) * outSize);
  }
}

void Job::chunk(int64_t index, char* memory) const {
  const Scratch scratch(call, memory);
  // Row chunks of a span follow each other, so that its weights are in L3 for all but the first.
  const int64_t s = index / plan.rowChunks, r = index % plan.rowChunks;
  const int64_t row0 = r * plan.chunkRows, row1 = std::min(rows, row0 + plan.chunkRows);
  const int64_t end = std::min(plan.blocks, (s + 1) * plan.span);
  const int64_t following = (index + threads) / plan.rowChunks * plan.span;  // a guess: threads take chunks in turn
  for (int64_t b = s * plan.span; b < end; ++b) {
    const int64_t next = b + 1 == end ? following : b + 1;
    const bool whole = (next + 1) * kQuantRows <= call.out.dim(1);
    blockRows(b, whole ? call.weight.ptr<const char>() + next * call.blockBytes() : nullptr, row0, row1, scratch);
  }
}

void run(Pool& pool, const Call& call) {
  const int64_t rows = call.x.dim(0), n = call.out.dim(1);
  if (rows == 0 || n == 0) return;
  const Isa level = isa();
  const QuantKernels tiles = tileKernels(level, call);
  const Rows kernels = rowKernels(level);
  const InputLayout layout(call, tiles.input);
  const int64_t step = std::min(rows, std::max(kMaxChunkRows, kInputBytes / std::max<int64_t>(1, layout.bytes(1))));
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const Plan plan = makePlan(count, n, call, pool.size());
    const int64_t inputBytes = layout.bytes(count), perThread = aligned(Scratch::bytes(call, n));
    char* memory = static_cast<char*>(pool.scratch(0, inputBytes + perThread * pool.size()));
    const char* source = call.x.ptr<const char>() + first * call.x.stride(0) * elementSize(call.x.dtype);
    const Input input = prepare(pool, call, tiles.input, kernels, source, count, memory, plan.alone);
    const Job job{call, plan, tiles, kernels, input, first, count, pool.size()};
    char* threadMemory = memory + inputBytes;
    const int64_t chunks = plan.spans * plan.rowChunks;
    if (plan.alone)
      for (int64_t c = 0; c < chunks; ++c) job.chunk(c, threadMemory);
    else
      pool.run(chunks, [&](int64_t c, int thread) { job.chunk(c, threadMemory + thread * perThread); });
  }
}

}  // namespace

void linearInt4(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool dynamicActivation) {
  run(pool, makeCall(QuantWeight::Int4, out, x, weight, scales, zeros, bias, dynamicActivation, 1, x.dim(1) / scales.dim(1)));
}

void linearInt8(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation) {
  const MaybeTensor none;
  run(pool, makeCall(QuantWeight::Int8, out, x, weight, scales, none, bias, dynamicActivation, 1, x.dim(1) / scales.dim(1)));
}

void linearFp8(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias, int64_t blockN,
               int64_t blockK, int64_t, double) {
  const MaybeTensor none;
  run(pool, makeCall(QuantWeight::Fp8, out, x, weight, scales, none, bias, false, blockN, std::min(blockK, x.dim(1))));
}

void quantizeFp8(Pool& pool, const Tensor& weight, const Tensor& scales, const Tensor& source) {
  const QuantRowKernels kernels = rowKernels(isa()).quant;
  const int64_t k = source.dim(1), stride = source.stride(0) * elementSize(source.dtype);
  pool.forRange(source.dim(0), std::max<int64_t>(1, (16 << 10) / std::max<int64_t>(1, k)), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      scales.ptr<float>()[r] = kernels.toFp8(source.dtype, source.ptr<const char>() + r * stride, k, weight.ptr<uint8_t>() + r * k);
  });
}

}  // namespace kvasir::cpu
