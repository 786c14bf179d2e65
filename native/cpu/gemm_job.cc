// One multiplication out = x @ weight^T + bias. The weight is read in packed blocks of 64 rows, cut along k into pieces that stay in L2
// while all rows of a chunk pass over them; sums that span pieces are kept in float32, so cutting does not change the order of summation.
#include "cpu/gemm_job.h"

#include <algorithm>

namespace kvasir::cpu {

namespace {

constexpr int64_t kPieceBytes = 128 << 10;      // of a packed block; a quarter of the smallest common L2, and the next one is on its way
constexpr int64_t kMinChunkRows = 4 * kTileRows;
constexpr int64_t kSpanBytes = 256 << 10;       // weights per chunk, so that taking a chunk costs nothing beside it
constexpr int64_t kAloneWork = 1 << 19;         // multiply-adds below which waking the pool costs more than it saves
constexpr int64_t kAloneBytes = 96 << 10;       // the same for weights streamed

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RowKernels rowKernels(Isa level) {
#ifdef KVASIR_X86
  if (level >= Isa::Avx512) return avx512::gemmRowKernels();
  if (level >= Isa::Avx2) return avx2::gemmRowKernels();
#endif
  (void)level;
  return portable::gemmRowKernels();
}

GemmKernels tileKernels(Isa level, DType block) {
#ifdef KVASIR_X86
  if (level >= Isa::Avx512Bf16 && block == DType::BFloat16) return avx512bf16::gemmKernels();
  if (level >= Isa::Avx512) return avx512::gemmKernels(block);
  if (level >= Isa::Avx2) return avx2::gemmKernels(block);
#endif
  (void)level;
  return portable::gemmKernels(block);
}

bool worthOneThread(int64_t rows, int64_t k, int64_t n, int64_t blockElement) {
  return rows * k * n < kAloneWork && ceilDiv(n, kTileCols) * kTileCols * k * blockElement < kAloneBytes;
}

GemmPlan makeGemmPlan(int64_t rows, int64_t k, int64_t n, int64_t blockElement, int64_t wanted) {
  GemmPlan p{};
  p.rows = rows, p.k = k, p.n = n;
  p.blocks = ceilDiv(n, kTileCols);
  const int64_t blockBytes = std::max<int64_t>(1, k * kTileCols * blockElement);
  int64_t chunkRows = std::min(rows, kMaxChunkRows);
  if (p.blocks < wanted) chunkRows = std::clamp(ceilDiv(rows * p.blocks, wanted), std::min(rows, kMinChunkRows), chunkRows);
  p.rowChunks = ceilDiv(rows, ceilDiv(chunkRows, kTileRows) * kTileRows);
  p.chunkRows = ceilDiv(ceilDiv(rows, p.rowChunks), kTileRows) * kTileRows;
  p.rowChunks = ceilDiv(rows, p.chunkRows);
  const int64_t most = std::max<int64_t>(1, p.blocks * p.rowChunks / wanted);
  p.span = std::clamp<int64_t>(ceilDiv(kSpanBytes, blockBytes * ceilDiv(std::min(rows, p.chunkRows), kTileRows)), 1, most);
  p.spans = ceilDiv(p.blocks, p.span);
  // A single tile reads each weight once: pieces would only interrupt the stream.
  const bool whole = p.chunkRows <= kTileRows;
  p.pieceK = whole ? k : std::max<int64_t>(16, kPieceBytes / (kTileCols * blockElement) / 2 * 2);
  return p;
}

// panel[k][64] = weight[64b .., k0 .. kEnd]^T as float32, for a weight that is not packed.
void GemmJob::packPiece(int64_t b, int64_t k0, int64_t kEnd, float* panel) const {
  constexpr int64_t kLine = 32;
  const int64_t size = elementSize(weight.dtype), columns = std::min<int64_t>(kTileCols, plan.n - b * kTileCols);
  float line[kLine];
  for (int64_t j = 0; j < kTileCols; ++j)
    for (int64_t k = k0; k < kEnd; k += kLine) {
      const int64_t width = std::min(kLine, kEnd - k);
      if (j < columns) row.widen(weight.dtype, weight.ptr<char>() + ((b * kTileCols + j) * weight.stride(0) + k) * size, width, line);
      else std::fill(line, line + width, 0.0f);
      for (int64_t i = 0; i < width; ++i) panel[(k - k0 + i) * kTileCols + j] = line[i];
    }
}

const char* GemmJob::piece(int64_t b, int64_t k0, float* panel) const {
  if (weight.layout == Layout::Packed) return weight.ptr<char>() + b * blockBytes() + k0 * kTileCols * elementSize(block);
  packPiece(b, k0, std::min(plan.k, k0 + plan.pieceK), panel);
  return reinterpret_cast<const char*>(panel);
}

// Rows [row0, row1) of the 64 columns of block b; `after` (or null) is the block that this thread reads next.
void GemmJob::blockRows(int64_t b, const char* after, int64_t row0, int64_t row1, float* sums, const float* biasRow, float* panel) const {
  const int64_t rows = row1 - row0, tileCount = ceilDiv(rows, kTileRows), columns = std::min<int64_t>(kTileCols, plan.n - b * kTileCols);
  const bool split = plan.pieceK < plan.k;
  for (int64_t k0 = 0; k0 < plan.k; k0 += plan.pieceK) {
    const int64_t depth = std::min(plan.pieceK, plan.k - k0);
    const char* w = piece(b, k0, panel);
    // While they compute, the tiles fetch what comes next into L2. One tile alone streams its weights and needs no help.
    const char* next = k0 + depth < plan.k ? w + depth * kTileCols * elementSize(block) : after;
    const bool ahead = weight.layout == Layout::Packed && tileCount > 1 && next != nullptr;
    const int64_t lines = ahead ? std::min(plan.pieceK, next == after ? plan.k : plan.k - k0 - depth) * elementSize(block) : 0;
    for (int64_t t = 0; t < tileCount; ++t) {
      const int64_t r0 = row0 + rows * t / tileCount, r1 = row0 + rows * (t + 1) / tileCount;
      float* c = split ? sums + (r0 - row0) * kTileCols : sums;
      const int64_t from = lines * t / tileCount, to = lines * (t + 1) / tileCount;
      tiles.tiles[r1 - r0 - 1](x + (r0 * xStride + k0) * elementSize(tiles.activation), xStride, w, depth, c, k0 > 0, next + from * 64,
                               to - from);
      if (k0 + depth < plan.k) continue;
      for (int64_t r = r0; r < r1; ++r) {
        const int64_t to = outRows ? outRows[r] : r;
        row.store(c + (r - r0) * kTileCols, biasRow, columns, outType, out + (to * outStride + b * kTileCols) * elementSize(outType));
      }
    }
  }
}

int64_t GemmJob::scratchBytes() const {
  const int64_t panel = weight.layout == Layout::Packed ? 0 : plan.pieceK * kTileCols * 4;
  return (sumFloats() + kTileCols) * 4 + panel;
}

void GemmJob::chunk(int64_t index, char* scratch) const {
  float* sums = reinterpret_cast<float*>(scratch);
  float* biasRow = sums + sumFloats();
  float* panel = biasRow + kTileCols;
  // Row chunks of a span follow each other, so that its weights are in L3 for all but the first.
  const int64_t s = index / plan.rowChunks, r = index % plan.rowChunks;
  const int64_t row0 = r * plan.chunkRows, row1 = std::min(plan.rows, row0 + plan.chunkRows);
  const int64_t end = std::min(plan.blocks, (s + 1) * plan.span);
  const int64_t following = (index + threads) / plan.rowChunks * plan.span;  // a guess: threads take chunks in turn
  for (int64_t b = s * plan.span; b < end; ++b) {
    const int64_t columns = std::min<int64_t>(kTileCols, plan.n - b * kTileCols);
    if (bias) row.widen(bias->dtype, bias->ptr<char>() + b * kTileCols * elementSize(bias->dtype), columns, biasRow);
    const bool last = b + 1 == end;
    const char* after = last && following >= plan.blocks ? nullptr : weight.ptr<char>() + (last ? following : b + 1) * blockBytes();
    blockRows(b, after, row0, row1, sums, bias ? biasRow : nullptr, panel);
  }
}

}  // namespace kvasir::cpu
