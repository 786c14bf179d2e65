#include "cpu/attention_plan.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/attention_split.h"
#include "cpu/cache_layout.h"

namespace kvasir::cpu {

namespace {

constexpr int64_t kTasksPerThread = 4;  // a longer task than its share is cut at splits

AttentionSequence checkedSequence(int64_t i, const int32_t* start, int64_t numTokens, const Tensor& blockTable, int32_t row, int32_t seqLen) {
  if (start[0] < 0 || start[1] < start[0] || start[1] > numTokens)
    fail(kTensorError, "pagedAttention: queryStartLoc goes from %d to %d at sequence %lld, expected ascending values up to numTokens %lld",
         start[0], start[1], static_cast<long long>(i), static_cast<long long>(numTokens));
  if (row < 0 || row >= blockTable.dims[0])
    fail(kTensorError, "pagedAttention: seqRows[%lld] is %d, expected a row of blockTable, which has %lld", static_cast<long long>(i), row,
         static_cast<long long>(blockTable.dims[0]));
  const int32_t queryLen = start[1] - start[0];
  if (seqLen != 0 && seqLen < queryLen)
    fail(kTensorError, "pagedAttention: seqLens[%lld] is %d, expected 0 or at least its %d query tokens", static_cast<long long>(i), seqLen, queryLen);
  if (seqLen > blockTable.dims[1] * kPageTokens)
    fail(kTensorError, "pagedAttention: seqLens[%lld] is %d, but a row of blockTable holds %lld tokens", static_cast<long long>(i), seqLen,
         static_cast<long long>(blockTable.dims[1] * kPageTokens));
  return {blockTable.ptr<int32_t>() + row * blockTable.strides[0], start[0], queryLen, seqLen};
}

void checkBlocks(int64_t i, const AttentionSequence& s, KeyRange keys, int64_t numBlocks) {
  for (int64_t page = keys.lo / kPageTokens; page * kPageTokens < keys.hi; ++page)
    if (s.blocks[page] < 0 || s.blocks[page] >= numBlocks)
      fail(kTensorError, "pagedAttention: block %lld of sequence %lld is %d, expected 0 to %lld", static_cast<long long>(page),
           static_cast<long long>(i), s.blocks[page], static_cast<long long>(numBlocks - 1));
}

void addTasks(AttentionPlan& plan, int32_t index, int64_t group, int64_t slidingWindow, int64_t longest) {
  const AttentionSequence& s = plan.sequences[static_cast<size_t>(index)];
  const int64_t rows = s.queryLen * group, blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (int64_t block = blocks - 1; block >= 0; --block) {  // the last rows attend most: they start first
    const int32_t row = static_cast<int32_t>(block * kBlockRows), count = static_cast<int32_t>(std::min<int64_t>(kBlockRows, rows - row));
    if (s.seqLen == 0) {
      plan.empty.push_back({index, row, count, 0, -1});
      continue;
    }
    const KeyRange keys = attendedKeys(s, group, row, count, slidingWindow);
    const int32_t begin = static_cast<int32_t>(keys.lo / kSplitTokens), end = static_cast<int32_t>((keys.hi + kSplitTokens - 1) / kSplitTokens);
    if (end - begin == 1 || (keys.hi - keys.lo) * count <= longest) {
      plan.tasks.push_back({index, row, count, begin, end, -1});
      continue;
    }
    plan.partialRows = std::max<int64_t>(plan.partialRows, count);
    plan.joins.push_back({index, row, count, end - begin, plan.partials});
    for (int32_t split = begin; split < end; ++split) plan.tasks.push_back({index, row, count, split, split + 1, plan.partials++});
  }
}

}  // namespace

KeyRange attendedKeys(const AttentionSequence& s, int64_t group, int64_t row, int64_t rows, int64_t slidingWindow) {
  const int64_t context = s.seqLen - s.queryLen;
  const int64_t first = context + row / group, last = context + (row + rows - 1) / group;
  return {slidingWindow > 0 ? std::max<int64_t>(0, first - slidingWindow + 1) : 0, last + 1};
}

AttentionPlan planAttention(int threads, int64_t group, int64_t numTokens, int64_t numBlocks, const Tensor& blockTable,
                            const Tensor& seqRows, const Tensor& seqLens, const Tensor& queryStartLoc, int64_t slidingWindow) {
  AttentionPlan plan;
  const int64_t numSeqs = seqLens.dims[0];
  const int32_t* const starts = queryStartLoc.ptr<int32_t>();
  plan.sequences.reserve(static_cast<size_t>(numSeqs));
  int64_t cost = 0;
  for (int64_t i = 0; i < numSeqs; ++i) {
    const AttentionSequence s = checkedSequence(i, starts + i, numTokens, blockTable, seqRows.ptr<int32_t>()[i], seqLens.ptr<int32_t>()[i]);
    plan.sequences.push_back(s);
    if (s.queryLen == 0 || s.seqLen == 0) continue;
    const KeyRange keys = attendedKeys(s, group, 0, s.queryLen * group, slidingWindow);
    checkBlocks(i, s, keys, numBlocks);
    cost += (keys.hi - keys.lo) * s.queryLen * group;
  }
  const int64_t longest = threads == 1 ? INT64_MAX : cost / (kTasksPerThread * threads);
  for (int64_t i = 0; i < numSeqs; ++i) addTasks(plan, static_cast<int32_t>(i), group, slidingWindow, longest);
  plan.paddingBegin = numSeqs > 0 ? starts[numSeqs] : 0;
  return plan;
}

}  // namespace kvasir::cpu
