#pragma once

#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void samplingCountPrompt(Pool& pool, const Tensor& counts, int64_t row, const Tensor& ids);
void samplingCountOutput(Pool& pool, const Tensor& counts, int64_t row, const Tensor& ids);
void samplingPenalties(Pool& pool, const Tensor& logits, const Tensor& counts, const Tensor& params, const Tensor& rows);
void samplingBias(Pool& pool, const Tensor& logits, int64_t logitRow, const Tensor& ids, const Tensor& values);
void samplingMask(Pool& pool, const Tensor& logits, int64_t logitRow, const Tensor& ids, bool keep);
void samplingLogprobs(Pool& pool, const Tensor& outLogprob, const Tensor& outRank, const MaybeTensor& topIds, const MaybeTensor& topLogprobs,
                      const Tensor& logits, const Tensor& targets);
void sample(Pool& pool, const Tensor& outIds, const Tensor& logits, const Tensor& params, const Tensor& seeds, const Tensor& positions,
            const Tensor& rows, const MaybeTensor& counts);
void samplingTop(Pool& pool, const Tensor& out, const Tensor& logits, int64_t firstId, int64_t numValid);
void sampleTop(Pool& pool, const Tensor& outIds, const Tensor& candidates, const Tensor& params, const Tensor& seeds, const Tensor& positions,
               const Tensor& rows);

}  // namespace kvasir::cpu
