// The sampler. State lives in tensors with one stable row per request, so that a step uploads only what changed:
//   params  float32 [maxNumSeqs, 8]: temperature, topP, minP, topK, repetitionPenalty, presencePenalty, frequencyPenalty, spare
//   seeds   int32 [maxNumSeqs, 2]: low and high half of a 64-bit seed
//   counts  int32 [maxNumSeqs, vocabSize]: bit 30 = the token is in the prompt, bits 0..29 = its occurrences in the output
// `rows` int32 [numRows] gives the state row of each row of logits [numRows, vocabSize] float32; -1 marks a padding row.
// Indices are checked where the kernel can read them: on the CPU a wrong one is ERR_KVASIR_TENSOR at the next fence, with nothing
// written; CUDA kernels, which cannot throw, skip a wrong token id and take a wrong state row as padding.
#pragma once

#include "core/stream.h"
#include "core/tensor.h"

namespace kvasir::ops {

// Clears a state row of counts, then marks the tokens of a prompt. ids: int32 [n].
void samplingCountPrompt(Stream& stream, const Tensor& counts, int64_t row, const Tensor& ids);

// Adds output tokens to a state row (a request that continues after preemption). ids: int32 [n].
void samplingCountOutput(Stream& stream, const Tensor& counts, int64_t row, const Tensor& ids);

// In place, as vLLM: tokens of prompt or output have positive logits divided and others multiplied by repetitionPenalty; then
// x -= frequencyPenalty * occurrences + presencePenalty for tokens of the output. Rows with neutral penalties are not touched.
void samplingPenalties(Stream& stream, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows);

// logits[logitRow, ids[i]] += values[i].  ids: int32 [n], values: float32 [n].
void samplingBias(Stream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values);

// keep = false: the ids become -infinity; keep = true: all others do. ids: int32 [n].
void samplingMask(Stream& stream, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep);

// Log-softmax of logits at targets (int32 [numRows]), and 1 + the number of tokens with a larger logit, as int32; with topIds int32 and
// topLogprobs float32 [numRows, k] the k most probable tokens too, the lower id first among equals.
// A target outside the vocabulary gets NaN and rank 0; a row with NaN or no finite maximum gets NaN, unused places of topIds -1.
void samplingLogprobs(Stream& stream, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds,
                      const MaybeTensor& topLogprobs, const Tensor& logits, const Tensor& targets);

// outIds[r] (int32) = a token drawn from softmax(logits[r] / temperature) after min-p, top-k and top-p, in this order.
//   temperature < 1e-5, or a logit of +infinity: the largest logit, the lowest id among equals.
//   minP keeps tokens with at least minP times the largest probability; topK the k largest and all that equal the k-th; topP the
//   tokens before which (among more probable ones) lies less than topP of the mass that is left, equals together.
//   Neutral: minP <= 0, topK < 1 or >= vocabSize, topP >= 1.
// The draw is Gumbel-max with noise from Philox4x32-10 of (seed, positions[r], token id): it depends on the row's logits, params,
// seed and position alone, never on its place in the batch. A row with NaN, all -infinity, or padding gives -1.
// With counts, rows that have penalties count their new token.
void sample(Stream& stream, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts);

// For ranks that each have a part of the vocabulary: the k largest of each row of logits float32 [numRows, n], a larger one first, the lower
// id first among equals. out int32 [numRows, 2 k], 1 <= k <= 512: k pairs of a value's bits and its token id, which is firstId + column.
// Only the first numValid columns count. Where there is no further token above -infinity, -infinity and id -1; a row with NaN has one
// token, NaN with id -1.
void samplingTop(Stream& stream, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid);

// As sample, from some tokens of each row: candidates int32 [numRows, 2 n], n <= 2048 pairs as samplingTop writes them, in any order, an id
// at most once. The token is that of the whole row if the candidates have all tokens that temperature and topK leave: the largest for
// greedy rows, else the topK largest and those that equal the last of them.
void sampleTop(Stream& stream, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows);

}  // namespace kvasir::ops
