// What the attention kernels share with their launcher.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"
#include "cuda/dependent_launch.cuh"

namespace kvasir::cuda::attention {

// The op's arguments (ops/attention.h) as kernels see them; distances are in elements.
struct Arguments {
  void* out;          // [numTokens, numHeads, headDim]
  const void* q;      // [numTokens, numHeads, headDim] at its strides
  const void* cache;  // [numBlocks, 2, numKvHeads, 16, headDim], of q's type or float8_e4m3
  const int32_t *blockTable, *seqRows, *seqLens, *queryStarts;
  const float *slopes, *sinks;  // [numHeads] or null
  int64_t qTokenStride, qHeadStride, blockTableStride;
  int numTokens, numSeqs, numHeads, numKvHeads, group, headDim;
  int window;  // 0: none
  float scale, softCap;  // scale: of the product of a query and a key as it is stored
  float valueScale;      // of a value as it is stored
  bool alignedQ;  // rows of q can be read 16 bytes at a time
};

// How a decode launch is cut into blocks. Results are the same bits whatever it says, for the same
// minLeafTokens above 0.
struct DecodeLaunch {
  int tiles;           // per (sequence, kv head)
  int tileRows;        // rows of a tile that can be used
  int rows;            // of blocks, one for each kv head and tile; slots beyond are worked off by the same blocks
  int few, many;       // see blockTokens()
  int blockTokens;     // instead of what blockTokens() says, unless 0
  int minLeafTokens;   // 0: a block's share is one leaf
  int earlyPages;      // of each warp that are brought to L2 while the kernel before still runs, see fetchEarly()
  bool all;            // every sequence belongs to this kernel, whatever its length, and the rows of padding tokens too
  float* partials;     // [slots of sequences with more than one][numKvHeads * tiles][tileRows][headDim + 2]
  int32_t* arrivals;   // [numSeqs * numKvHeads * tiles], zero between launches
};

// The arguments of a call of the op.
Arguments argumentsOf(const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows, const Tensor& seqLens,
                      const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap, const MaybeTensor& alibiSlopes,
                      const MaybeTensor& sinks, double kScale, double vScale);

// Names ending in Fp8 are for a float8_e4m3 cache, the others for one of q's type.
// Tokens of at most 16 (8 for headDim 256) rows against split keys. 16-bit types, headDim of hasTensorCoreKernel().
void decodeFloat16(const Arguments& a, const DecodeLaunch& d, Chain s);
void decodeBFloat16(const Arguments& a, const DecodeLaunch& d, Chain s);
void decodeFloat16Fp8(const Arguments& a, const DecodeLaunch& d, Chain s);
void decodeBFloat16Fp8(const Arguments& a, const DecodeLaunch& d, Chain s);
// All sequences that are not isDecode(), and the padding.
void prefillFloat16(const Arguments& a, cudaStream_t s);
void prefillBFloat16(const Arguments& a, cudaStream_t s);
void prefillFloat16Fp8(const Arguments& a, cudaStream_t s);
void prefillBFloat16Fp8(const Arguments& a, cudaStream_t s);
// Any type and headDim up to kPlainHeadDim; with `prefillOnly` what the prefill kernel would do. dtype: of q.
void plain(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s);
void plainFp8(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s);

inline constexpr int kPlainHeadDim = 512;

constexpr bool hasTensorCoreKernel(int64_t headDim) {
  return headDim == 64 || headDim == 80 || headDim == 96 || headDim == 128 || headDim == 256;
}
// Rows of a decode tile: with 256 dimensions the registers hold eight.
constexpr int decodeTileRows(int64_t headDim, int rows) { return rows <= 8 || headDim == 256 ? 8 : 16; }

// Shared memory of a prefill block: queries, and two stages of 64 keys and values, from where rows do not straddle a multiple of their size.
// With cache elements of one byte, one of the stages is as it lies in the cache.
inline constexpr int kPrefillAlignment = 512;
constexpr int64_t prefillSharedBytes(int64_t headDim, int64_t elementBytes) {
  return (128 * 2 + 2 * 64 * (2 + elementBytes)) * headDim + kPrefillAlignment;
}

}  // namespace kvasir::cuda::attention
