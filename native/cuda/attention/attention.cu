#include "cuda/attention/attention.h"

#include <algorithm>

#include "cuda/access.cuh"
#include "cuda/attention/plan.h"
#include "cuda/cache_layout.cuh"
#include "cuda/gemm/context.h"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

using namespace attention;

// Rows that a sequence and kv head can have in a decode launch, as tiles.
struct TileShape {
  int tiles, rows;
};
TileShape tileShape(const Arguments& a, bool oneTokenEach) {
  const int rows = oneTokenEach ? a.group : std::max(a.group, kShortRows);
  const int height = std::min(decodeTileRows(a.headDim, rows), rows);
  return {static_cast<int>(ceilDiv(rows, height)), height};
}

// The scratch memory is that of the largest launch which the block table has room for, whatever this one needs: it must not grow between
// graphs that are captured.
DecodeLaunch planDecode(CudaStream& stream, const Arguments& a, DType cache, const Tensor& blockTable, bool oneTokenEach) {
  const TileShape shape = tileShape(a, oneTokenEach), largest = tileShape(a, false);
  const int64_t pairs = int64_t{a.numKvHeads} * shape.tiles;
  const int64_t mostPairs = std::max<int64_t>(blockTable.dims[0], a.numSeqs) * a.numKvHeads * largest.tiles;
  DecodeLaunch d;
  d.tiles = shape.tiles;
  d.tileRows = shape.rows;
  d.few = decodeOccupancy(a.headDim, decodeTileRows(a.headDim, shape.rows) / 8, elementSize(cache)) * stream.multiprocessors();
  d.many = kManyBlocks * stream.multiprocessors();
  d.blockTokens = 0;
  d.minLeafTokens = stream.gemm().options().batchInvariant ? kMinLeafTokens : 0;
  d.rows = static_cast<int>(std::max<int64_t>(a.numSeqs, ceilDiv(d.few, pairs)));
  d.earlyPages = stream.overlaps() ? kEarlyPages : 0;
  d.all = oneTokenEach;
  const int64_t floats = int64_t{d.many} * largest.rows * (a.headDim + 2);
  d.partials = static_cast<float*>(stream.scratch(floats * static_cast<int64_t>(sizeof(float))));
  d.arrivals = stream.counters(mostPairs);
  return d;
}

bool fitsPrefill(const CudaStream& stream, int headDim, DType cache) {
  int most = 0;
  KVASIR_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, stream.ordinal()));
  return prefillSharedBytes(headDim, elementSize(cache)) + 1024 <= most;
}

// For queries and a cache of certain types; decode and prefill are null for float32.
struct Kernels {
  DType dtype, cache;  // dtype: of q
  void (*decode)(const Arguments& a, const DecodeLaunch& d, Chain s);
  void (*prefill)(const Arguments& a, cudaStream_t s);
  void (*plain)(const Arguments& a, DType dtype, bool prefillOnly, cudaStream_t s);
};
Kernels kernelsOf(DType q, DType cache) {
  const bool fp8 = cache == DType::Float8E4M3;
  const auto onAnything = fp8 ? plainFp8 : plain;
  if (q == DType::Float32) return {q, cache, nullptr, nullptr, onAnything};
  if (q == DType::Float16) return {q, cache, fp8 ? decodeFloat16Fp8 : decodeFloat16, fp8 ? prefillFloat16Fp8 : prefillFloat16, onAnything};
  return {q, cache, fp8 ? decodeBFloat16Fp8 : decodeBFloat16, fp8 ? prefillBFloat16Fp8 : prefillBFloat16, onAnything};
}

// Every launch handles the sequences of its kind, by their query length on the device. Only a step of as many tokens as sequences is known
// here to be decode; that launch takes any other lengths too, so that it is right whatever they are.
void launchTensorCore(CudaStream& stream, const Arguments& a, const Kernels& kernels, const Tensor& blockTable, cudaStream_t s) {
  const bool oneTokenEach = a.numTokens == a.numSeqs;
  if (a.numSeqs > 0) {
    const DecodeLaunch d = planDecode(stream, a, kernels.cache, blockTable, oneTokenEach);
    kernels.decode(a, d, Chain{s, stream.overlaps()});
  }
  if (oneTokenEach) return;
  if (fitsPrefill(stream, a.headDim, kernels.cache)) kernels.prefill(a, s);
  else kernels.plain(a, kernels.dtype, true, s);
}

}  // namespace

Arguments attention::argumentsOf(const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                                 const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                                 const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale) {
  Arguments a;
  a.out = out.data;
  a.q = q.data;
  a.cache = kvCache.data;
  a.blockTable = blockTable.ptr<int32_t>();
  a.seqRows = seqRows.ptr<int32_t>();
  a.seqLens = seqLens.ptr<int32_t>();
  a.queryStarts = queryStartLoc.ptr<int32_t>();
  a.slopes = alibiSlopes ? alibiSlopes->ptr<float>() : nullptr;
  a.sinks = sinks ? sinks->ptr<float>() : nullptr;
  a.qTokenStride = q.strides[0];
  a.qHeadStride = q.strides[1];
  a.blockTableStride = blockTable.strides[0];
  a.numTokens = static_cast<int>(q.dims[0]);
  a.numSeqs = static_cast<int>(seqLens.dims[0]);
  a.numHeads = static_cast<int>(q.dims[1]);
  a.numKvHeads = static_cast<int>(kvCache.dims[2]);
  a.group = a.numHeads / a.numKvHeads;
  a.headDim = static_cast<int>(q.dims[2]);
  a.window = static_cast<int>(std::min<int64_t>(slidingWindow, 1 << 30));
  a.scale = static_cast<float>(scale * kScale);
  a.valueScale = static_cast<float>(vScale);
  a.softCap = static_cast<float>(logitsSoftCap);
  const int64_t size = elementSize(q.dtype);
  a.alignedQ = accessBytes({addressOf(q), a.qTokenStride * size, a.qHeadStride * size}) == 16;
  return a;
}

void pagedAttention(CudaStream& stream, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale) {
  if (out.numel() == 0) return;
  const Arguments a =
      argumentsOf(out, q, kvCache, blockTable, seqRows, seqLens, queryStartLoc, scale, slidingWindow, logitsSoftCap, alibiSlopes, sinks, kScale, vScale);
  const Kernels kernels = kernelsOf(q.dtype, kvCache.dtype);
  const bool tensorCores = kernels.decode && hasTensorCoreKernel(a.headDim) && accessBytes({addressOf(out), addressOf(kvCache)}) == 16;
  stream.launch("pagedAttention", [&](cudaStream_t s) {
    if (tensorCores) launchTensorCore(stream, a, kernels, blockTable, s);
    else kernels.plain(a, q.dtype, false, s);
  });
}

}  // namespace kvasir::cuda
