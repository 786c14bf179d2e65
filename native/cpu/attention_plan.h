// Cuts a varlen batch into tasks of at most kBlockRows rows. Only the cut depends on the batch and on the number of threads; the
// arithmetic of a row does not (attention_split.h).
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace kvasir::cpu {

struct AttentionSequence {
  const int32_t* blocks;  // row of the block table
  int64_t queryStart;     // first row of q and out
  int32_t queryLen, seqLen;
};

// Rows [row, row + rows) of a sequence, counted as token * group + head of the group, against splits [splitBegin, splitEnd).
struct AttentionTask {
  int32_t sequence, row, rows, splitBegin, splitEnd;
  int64_t partial;  // index of the stored result if this is one split of several tasks, or -1
};

// Partial results of consecutive splits, to be merged in order.
struct AttentionJoin {
  int32_t sequence, row, rows, splits;
  int64_t partial;
};

struct AttentionPlan {
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionTask> tasks;
  std::vector<AttentionJoin> joins;
  std::vector<AttentionJoin> empty;  // rows that attend nothing (seqLen 0)
  int64_t partials = 0;              // per kv head
  int64_t partialRows = 0;           // the most rows of one
  int64_t paddingBegin = 0;          // first token after the last sequence
};

// Checks what only the device's data can tell and throws ERR_KVASIR_TENSOR: start locations, rows of the block table, lengths, and
// the ids of all blocks that will be read.
AttentionPlan planAttention(int threads, int64_t group, int64_t numTokens, int64_t numBlocks, const Tensor& blockTable,
                            const Tensor& seqRows, const Tensor& seqLens, const Tensor& queryStartLoc, int64_t slidingWindow);

// First and one past the last key that rows [row, row + rows) attend.
struct KeyRange {
  int64_t lo, hi;
};
KeyRange attendedKeys(const AttentionSequence& s, int64_t group, int64_t row, int64_t rows, int64_t slidingWindow);

}  // namespace kvasir::cpu
