// The arithmetic of attention, one implementation per instruction set: up to kSplitTokens keys of one kv head against up to
// kBlockRows query rows (a row is one token of one query head). What a row's result is depends only on the row and the keys it
// attends: splits begin at multiples of kSplitTokens of the sequence, a split has one maximum, and splits merge in order. So decode,
// prefill, any chunking and any batch give the same bits.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace kvasir::cpu {

inline constexpr int kSplitTokens = 256;
inline constexpr int kSplitPages = 16;
inline constexpr int kAheadPages = 4;
inline constexpr int kBlockRows = 32;
inline constexpr int64_t kScoreStride = kSplitTokens + 16;  // floats between rows: not a power of two, to spread over cache sets
inline constexpr float kNoMaximum = -1e30f;                 // finite, so that differences of it are not NaN

struct AttentionSplit {
  const char* const* kPages;  // [kSplitPages], as in cache_layout.h; only pages with an attended key are read
  const char* const* vPages;
  const char* const* kAhead;  // per page of K and of V: the page that is read kAheadPages later, to be prefetched meanwhile
  const char* const* vAhead;
  const char* q;  // rows of headDim float32, or bfloat16 where AttentionKernels::bf16Queries
  int64_t qBytes;  // from row to row
  int numRows, headDim;
  const int32_t *lo, *hi;  // per row: attended keys [lo, hi), counted from the split's first
  float scale;             // log2(e) * softmax scale; with a soft cap: softmax scale / cap
  float softCap;           // log2(e) * cap, or 0
  const float* slopes;     // per row: log2(e) * ALiBi slope, or null
  const float* distances;  // per row: position of the split's first key minus the row's position
  float* scores;           // scratch [numRows][kScoreStride]
  // Results, in base 2: maximum, sum of exp2(score - maximum), and that weighting of V, rows of headDim rounded up to 16.
  float *m, *l, *o;
};

struct AttentionMerge {
  int numRows, headDim;
  float *m, *l, *o;  // accumulated; in and out
  const float *splitM, *splitL, *splitO;
};

struct AttentionKernels {
  void (*split)(const AttentionSplit&);
  void (*merge)(const AttentionMerge&);
  bool bf16Queries;
};

AttentionKernels portableAttention(DType cache);
namespace avx2 {
AttentionKernels attention(DType cache);
}
namespace avx512 {
AttentionKernels attention(DType cache);
}
namespace avx512bf16 {
AttentionKernels attention();  // bfloat16 caches only
}

}  // namespace kvasir::cpu
