// The engine of linear layers: one multiplication, cut into chunks that the threads of a pool take. Private to gemm*.cc and moe*.cc.
#pragma once

#include "cpu/gemm.h"
#include "cpu/gemm_kernels.h"

namespace kvasir::cpu {

inline constexpr int64_t kMaxChunkRows = 32 * kTileRows;

// The kernels of an instruction set; `block` is the dtype of the packed blocks.
GemmKernels tileKernels(Isa level, DType block);
RowKernels rowKernels(Isa level);

// How a multiplication is cut. A chunk is `span` blocks of weights for `chunkRows` rows of x.
struct GemmPlan {
  int64_t rows, k, n, blocks, pieceK, chunkRows, rowChunks, span, spans;

  int64_t chunks() const { return spans * rowChunks; }
};

// Whether waking the pool costs more than it saves.
bool worthOneThread(int64_t rows, int64_t k, int64_t n, int64_t blockElement);

// `wanted`: the number of chunks to aim at, so that threads that run late hold up the others little.
GemmPlan makeGemmPlan(int64_t rows, int64_t k, int64_t n, int64_t blockElement, int64_t wanted);

// One multiplication, after x has been converted to what the tiles read.
struct GemmJob {
  GemmPlan plan;
  GemmKernels tiles;
  RowKernels row;
  Tensor weight;  // [>= n, k]
  DType block;    // of the blocks that the tiles read: weight's when it is packed, else float32
  MaybeTensor bias;
  const char* x;
  int64_t xStride;  // elements of tiles.activation
  char* out;
  int64_t outStride;
  DType outType;
  int64_t threads;                   // a thread that has chunk c will take about c + threads next
  const int32_t* outRows = nullptr;  // row r of x gives row outRows[r] of out; null: row r

  int64_t scratchBytes() const;
  void chunk(int64_t index, char* scratch) const;

 private:
  int64_t blockBytes() const { return plan.k * kTileCols * elementSize(block); }
  int64_t sumFloats() const { return (plan.pieceK < plan.k ? plan.chunkRows : kTileRows) * kTileCols; }
  void blockRows(int64_t b, const char* after, int64_t row0, int64_t row1, float* sums, const float* bias, float* panel) const;
  const char* piece(int64_t b, int64_t k0, float* panel) const;
  void packPiece(int64_t b, int64_t k0, int64_t kEnd, float* panel) const;
};

}  // namespace kvasir::cpu
