// Every op of the CUDA backend: the same names and arguments as in ops/, checked there. Each queues its kernels on the stream.
// Weights are never rearranged here: Layout::Packed means nothing to this backend.
#pragma once

#include "core/file_view.h"
#include "core/tensor.h"
#include "cuda/stream.h"

namespace kvasir::cuda {

// norm.cu
void rmsNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, double eps, bool gemma);
void addRmsNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, bool gemma);

// layer_norm.cu, add.cu
void layerNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias, double eps);
void addLayerNorm(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const MaybeTensor& bias, double eps);
void add(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& y);

// copy.cu
void copy(CudaStream& stream, const Tensor& out, const Tensor& x);
void gatherRows(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& indices);
void scatterElements(CudaStream& stream, const Tensor& out, const Tensor& indices, const Tensor& values);
void selectElements(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& indices);
void fill(CudaStream& stream, const Tensor& out, double value);
void fillRandom(CudaStream& stream, const Tensor& out, int64_t seed, double scale);
void loadFromFile(CudaStream& stream, const Tensor& out, const FileView& source);

// rope.cu, activation.cu, soft_cap.cu, embedding.cu, cache.cu
void rope(CudaStream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox);
void normRope(CudaStream& stream, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox);
void siluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x);
void geluAndMul(CudaStream& stream, const Tensor& out, const Tensor& x);
void geluTanhAndMul(CudaStream& stream, const Tensor& out, const Tensor& x);
void silu(CudaStream& stream, const Tensor& out, const Tensor& x);
void gelu(CudaStream& stream, const Tensor& out, const Tensor& x);
void geluTanh(CudaStream& stream, const Tensor& out, const Tensor& x);
void relu(CudaStream& stream, const Tensor& out, const Tensor& x);
void scale(CudaStream& stream, const Tensor& out, const Tensor& x, double factor);
void softCap(CudaStream& stream, const Tensor& out, const Tensor& x, double cap);
void embedding(CudaStream& stream, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart);
void kvCacheWrite(CudaStream& stream, const Tensor& kvCache, const Tensor& k, const Tensor& v, const Tensor& slotMapping, double kScale, double vScale);

// gemm/
void packLinear(CudaStream& stream, const Tensor& weight);
void linear(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const MaybeTensor& bias);

// quant/
void repackInt4(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format);
void unpackZeros(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format);
void repackInt8(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format);
void packInt4(CudaStream& stream, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros);
void packInt8(CudaStream& stream, const Tensor& weight, const Tensor& scales);
void packFp8(CudaStream& stream, const Tensor& weight);
void linearInt4(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool dynamicActivation);
void linearInt8(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation);
void linearFp8(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
               int64_t blockN, int64_t blockK, int64_t activation, double inputScale);
void quantizeFp8(CudaStream& stream, const Tensor& weight, const Tensor& scales, const Tensor& source);

// moe/
void moeRouting(CudaStream& stream, const Tensor& outWeights, const Tensor& outExperts, const Tensor& logits, bool renormalize);
void moeAlign(CudaStream& stream, const Tensor& outBlocks, const Tensor& experts, int64_t numExperts);
void moeLinear(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& blocks);
void moeCombine(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weights, const Tensor& experts, int64_t numExperts);

// attention/
void pagedAttention(CudaStream& stream, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale);

// sampling*.cu
void samplingCountPrompt(CudaStream& stream, const Tensor& counts, int64_t row, const Tensor& ids);
void samplingCountOutput(CudaStream& stream, const Tensor& counts, int64_t row, const Tensor& ids);
void samplingPenalties(CudaStream& stream, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows);
void samplingBias(CudaStream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values);
void samplingMask(CudaStream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep);
void samplingLogprobs(CudaStream& stream, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds,
                      const MaybeTensor& topLogprobs, const Tensor& logits, const Tensor& targets);
void sample(CudaStream& stream, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts);
void samplingTop(CudaStream& stream, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid);
void sampleTop(CudaStream& stream, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows);

}  // namespace kvasir::cuda
