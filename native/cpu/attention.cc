// Paged attention: runs the tasks of attention_plan.h for every kv head on the kernels of attention_split.h.
#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "cpu/attention_fp8.h"
#include "cpu/attention_plan.h"
#include "cpu/attention_split.h"
#include "cpu/cache_layout.h"

namespace kvasir::cpu {

namespace {

constexpr double kLog2e = 1.4426950408889634;

// A float8_e4m3 cache is widened to bfloat16, but queries of more precision keep it.
AttentionKernels chooseKernels(DType cache, DType q) {
  const bool bf16Products = cache == DType::BFloat16 || (cache == DType::Float8E4M3 && q == DType::BFloat16);
  if (cache == DType::Float8E4M3) cache = DType::BFloat16;
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512Bf16 && bf16Products) return avx512bf16::attention();
  if (isa() >= Isa::Avx512) return avx512::attention(cache);
  if (isa() >= Isa::Avx2) return avx2::attention(cache);
#endif
  return portableAttention(cache);
}

// Results of up to kBlockRows rows: maxima, sums, and rows of values, one after the other.
struct Rows {
  float *m, *l, *o;
};

class Attention {
 public:
  Attention(const Tensor& out, const Tensor& q, const Tensor& kvCache, double scale, int64_t slidingWindow, double softCap,
            const MaybeTensor& slopes, const MaybeTensor& sinks, double kScale, double vScale)
      : out_(out), q_(q), cache_(kvCache), kernels_(chooseKernels(kvCache.dtype, q.dtype)),
        widen_(kvCache.dtype == DType::Float8E4M3 ? widenFp8() : nullptr), slopes_(slopes ? slopes->ptr<float>() : nullptr),
        sinks_(sinks ? sinks->ptr<float>() : nullptr), headDim_(q.dims[2]), padded_((headDim_ + 15) / 16 * 16),
        numKvHeads_(kvCache.dims[2]), group_(q.dims[1] / numKvHeads_), window_(slidingWindow),
        scale_(static_cast<float>(kScale * (softCap > 0 ? scale / softCap : scale * kLog2e))), softCap_(static_cast<float>(softCap * kLog2e)),
        vScale_(static_cast<float>(vScale)) {}

  int64_t group() const { return group_; }
  void run(Pool& pool, const AttentionPlan& plan);

 private:
  int64_t rowsFloats(int64_t rows) const { return rows * (padded_ + 2); }
  int64_t pageBytes() const { return pageElements() * elementSize(cache_.dtype); }
  int64_t valueOffset() const { return numKvHeads_ * pageBytes(); }  // from a key page to its value page
  const char* keyPage(const AttentionSequence& s, int64_t head, int64_t page) const;
  int64_t pageElements() const { return kPageTokens * headDim_; }
  int64_t widenedFloats() const { return widen_ ? 2 * kSplitPages * pageElements() / 2 : 0; }
  // Scratch of a thread: queries, scores, results of one split, results so far, widened pages.
  int64_t threadFloats() const { return kBlockRows * (padded_ + kScoreStride) + 2 * rowsFloats(kBlockRows) + widenedFloats(); }
  static Rows rowsAt(float* p, int64_t rows) { return {p, p + rows, p + 2 * rows}; }
  Rows partialAt(const AttentionPlan& plan, float* partials, int64_t index, int64_t head) const {
    return rowsAt(partials + (index * numKvHeads_ + head) * rowsFloats(plan.partialRows), plan.partialRows);
  }

  struct Pages {
    const char *k[kSplitPages], *v[kSplitPages], *kAhead[kSplitPages], *vAhead[kSplitPages];
    void find(const Attention& a, const AttentionSequence& s, int64_t head, int64_t firstPage, int begin, int end);
    void widen(const Attention& a, const AttentionSequence& s, int64_t head, int64_t firstPage, int begin, int end, bf16* to);
  };

  void clear(const Rows& r, int rows) const;
  void packQueries(const AttentionSequence& s, const AttentionTask& t, int64_t head, void* to) const;
  void runTask(const AttentionPlan& plan, const AttentionTask& t, int64_t head, float* scratch, float* partials) const;
  void join(const AttentionPlan& plan, const AttentionJoin& j, int64_t head, float* scratch, float* partials) const;
  void merge(int rows, const Rows& into, const Rows& split) const {
    kernels_.merge({rows, static_cast<int>(headDim_), into.m, into.l, into.o, split.m, split.l, split.o});
  }
  // Writes finished rows; without results, zeros.
  void finish(const AttentionSequence& s, int64_t row, int rows, int64_t head, const Rows* results) const;
  template <class T>
  void finishRow(T* to, int64_t head, int i, const Rows& results) const;

  const Tensor &out_, &q_, &cache_;
  const AttentionKernels kernels_;
  const WidenFp8 widen_;
  const float *const slopes_, *const sinks_;
  const int64_t headDim_, padded_, numKvHeads_, group_, window_;
  const float scale_, softCap_, vScale_;
};

const char* Attention::keyPage(const AttentionSequence& s, int64_t head, int64_t page) const {  // 64-bit: caches are larger than 2^31 elements
  return cache_.ptr<char>() + (static_cast<int64_t>(s.blocks[page]) * 2 * numKvHeads_ + head) * pageBytes();
}

// Addresses of the pages [begin, end) of a split in reading order, K then V then the next split's K, and which one to prefetch while
// reading each.
void Attention::Pages::find(const Attention& a, const AttentionSequence& s, int64_t head, int64_t firstPage, int begin, int end) {
  const auto key = [&](int64_t page) { return a.keyPage(s, head, firstPage + page); };
  const char* order[2 * kSplitPages + kAheadPages];
  const int count = end - begin;
  for (int i = 0; i < count; ++i) {
    order[i] = k[begin + i] = key(begin + i);
    order[count + i] = v[begin + i] = k[begin + i] + a.valueOffset();
  }
  for (int i = 0; i < kAheadPages; ++i)
    order[2 * count + i] = (firstPage + kSplitPages + i) * kPageTokens < s.seqLen ? key(kSplitPages + i) : order[2 * count - 1];
  for (int i = 0; i < count; ++i) {
    kAhead[begin + i] = order[i + kAheadPages];
    vAhead[begin + i] = order[count + i + kAheadPages];
  }
}

// Widens the pages [begin, end) that find() found to `to` [2][kSplitPages][pageElements], where the kernels read them. Memory is
// read here only, so this is where the next split's pages are prefetched.
void Attention::Pages::widen(const Attention& a, const AttentionSequence& s, int64_t head, int64_t firstPage, int begin, int end, bf16* to) {
  const int64_t count = a.pageElements();
  for (const bool isValue : {false, true})
    for (int i = begin; i < end; ++i) {
      const int64_t later = firstPage + kSplitPages + i;
      const char* const ahead = later * kPageTokens < s.seqLen ? a.keyPage(s, head, later) + (isValue ? a.valueOffset() : 0) : nullptr;
      bf16* const page = to + ((isValue ? kSplitPages : 0) + i) * count;
      const char*& from = (isValue ? v : k)[i];
      a.widen_(from, page, count, ahead);
      from = (isValue ? vAhead : kAhead)[i] = reinterpret_cast<const char*>(page);
    }
}

template <class T>
void packRow(const T* x, int64_t n, bool toBf16, void* to) {
  if (!toBf16) {
    float* const f = static_cast<float*>(to);
    for (int64_t i = 0; i < n; ++i) f[i] = toFloat(x[i]);
  } else if constexpr (std::is_same_v<T, bf16>) {
    std::memcpy(to, x, static_cast<size_t>(n) * sizeof(bf16));
  } else {
    bf16* const b = static_cast<bf16*>(to);
    for (int64_t i = 0; i < n; ++i) b[i] = fromFloat<bf16>(toFloat(x[i]));
  }
}

void Attention::packQueries(const AttentionSequence& s, const AttentionTask& t, int64_t head, void* to) const {
  for (int32_t i = 0; i < t.rows; ++i) {
    const int64_t row = t.row + i, at = (s.queryStart + row / group_) * q_.strides[0] + (head * group_ + row % group_) * q_.strides[1];
    void* const target = static_cast<float*>(to) + i * padded_;
    switch (q_.dtype) {
      case DType::Float32: packRow(q_.ptr<float>() + at, headDim_, kernels_.bf16Queries, target); break;
      case DType::BFloat16: packRow(q_.ptr<bf16>() + at, headDim_, kernels_.bf16Queries, target); break;
      default: packRow(q_.ptr<f16>() + at, headDim_, kernels_.bf16Queries, target); break;
    }
  }
}

void Attention::clear(const Rows& r, int rows) const {
  std::fill_n(r.m, rows, kNoMaximum);
  std::fill_n(r.l, rows, 0.0f);
  std::fill_n(r.o, rows * padded_, 0.0f);
}

void Attention::runTask(const AttentionPlan& plan, const AttentionTask& t, int64_t head, float* scratch, float* partials) const {
  const AttentionSequence& s = plan.sequences[static_cast<size_t>(t.sequence)];
  Pages pages;
  int32_t lo[kBlockRows], hi[kBlockRows];
  float slopes[kBlockRows], distances[kBlockRows];
  float *const scores = scratch + kBlockRows * padded_, *const results = scores + kBlockRows * kScoreStride;
  const Rows split = t.partial >= 0 ? partialAt(plan, partials, t.partial, head) : rowsAt(results, kBlockRows);
  const Rows total = rowsAt(results + rowsFloats(kBlockRows), kBlockRows);
  bf16* const widened = reinterpret_cast<bf16*>(results + 2 * rowsFloats(kBlockRows));
  packQueries(s, t, head, scratch);
  if (t.partial < 0) clear(total, t.rows);
  for (int64_t n = t.splitBegin; n < t.splitEnd; ++n) {
    const int64_t firstKey = n * kSplitTokens;
    int64_t from = kSplitTokens, to = 0;
    for (int32_t i = 0; i < t.rows; ++i) {
      const KeyRange keys = attendedKeys(s, group_, t.row + i, 1, window_);
      const int64_t begin = std::clamp<int64_t>(keys.lo - firstKey, 0, kSplitTokens), end = std::clamp<int64_t>(keys.hi - firstKey, 0, kSplitTokens);
      lo[i] = static_cast<int32_t>(begin);
      hi[i] = static_cast<int32_t>(end);
      if (slopes_) slopes[i] = static_cast<float>(slopes_[head * group_ + (t.row + i) % group_] * kLog2e);
      distances[i] = static_cast<float>(firstKey - (keys.hi - 1));
      if (begin >= end) continue;
      from = std::min(from, begin);
      to = std::max(to, end);
    }
    const int begin = static_cast<int>(from / kPageTokens), end = static_cast<int>((to + kPageTokens - 1) / kPageTokens);
    pages.find(*this, s, head, n * kSplitPages, begin, end);
    if (widen_) pages.widen(*this, s, head, n * kSplitPages, begin, end, widened);
    kernels_.split({pages.k, pages.v, pages.kAhead, pages.vAhead, reinterpret_cast<const char*>(scratch), padded_ * 4, t.rows,
                    static_cast<int>(headDim_), lo, hi, scale_, softCap_, slopes_ ? slopes : nullptr, distances, scores, split.m, split.l, split.o});
    if (t.partial < 0) merge(t.rows, total, split);
  }
  if (t.partial < 0) finish(s, t.row, t.rows, head, &total);
}

void Attention::join(const AttentionPlan& plan, const AttentionJoin& j, int64_t head, float* scratch, float* partials) const {
  const Rows total = rowsAt(scratch, kBlockRows);
  clear(total, j.rows);
  for (int64_t i = 0; i < j.splits; ++i) merge(j.rows, total, partialAt(plan, partials, j.partial + i, head));
  finish(plan.sequences[static_cast<size_t>(j.sequence)], j.row, j.rows, head, &total);
}

template <class T>
void Attention::finishRow(T* to, int64_t head, int i, const Rows& r) const {
  float l = r.l[i], numerator = 1.0f;
  if (sinks_) {  // one more logit, with no value
    const float sink = static_cast<float>(sinks_[head] * kLog2e), m = std::max(r.m[i], sink);
    numerator = std::exp2(r.m[i] - m);
    l = l * numerator + std::exp2(sink - m);
  }
  numerator *= vScale_;
  const float* const o = r.o + i * padded_;
  for (int64_t d = 0; d < headDim_; ++d) to[d] = fromFloat<T>(o[d] * numerator / l);
}

void Attention::finish(const AttentionSequence& s, int64_t row, int rows, int64_t head, const Rows* results) const {
  for (int i = 0; i < rows; ++i) {
    const int64_t qHead = head * group_ + (row + i) % group_;
    const int64_t at = (s.queryStart + (row + i) / group_) * out_.strides[0] + qHead * out_.strides[1];
    if (!results) std::memset(out_.ptr<char>() + at * elementSize(out_.dtype), 0, static_cast<size_t>(headDim_ * elementSize(out_.dtype)));
    else if (out_.dtype == DType::Float32) finishRow(out_.ptr<float>() + at, qHead, i, *results);
    else if (out_.dtype == DType::BFloat16) finishRow(out_.ptr<bf16>() + at, qHead, i, *results);
    else finishRow(out_.ptr<f16>() + at, qHead, i, *results);
  }
}

void Attention::run(Pool& pool, const AttentionPlan& plan) {
  // One allocation, made before the threads start: a part per thread, then the partial results.
  const int64_t perThread = threadFloats(), partialFloats = plan.partials * numKvHeads_ * rowsFloats(plan.partialRows);
  float* const memory = static_cast<float*>(pool.scratch(0, (pool.size() * perThread + partialFloats) * 4));
  float* const partials = memory + pool.size() * perThread;
  pool.run(static_cast<int64_t>(plan.tasks.size()) * numKvHeads_, [&](int64_t chunk, int thread) {
    runTask(plan, plan.tasks[static_cast<size_t>(chunk / numKvHeads_)], chunk % numKvHeads_, memory + thread * perThread, partials);
  });
  pool.run(static_cast<int64_t>(plan.joins.size()) * numKvHeads_, [&](int64_t chunk, int thread) {
    join(plan, plan.joins[static_cast<size_t>(chunk / numKvHeads_)], chunk % numKvHeads_, memory + thread * perThread, partials);
  });
  for (const AttentionJoin& j : plan.empty)
    for (int64_t head = 0; head < numKvHeads_; ++head) finish(plan.sequences[static_cast<size_t>(j.sequence)], j.row, j.rows, head, nullptr);
  const int64_t tokenBytes = q_.dims[1] * headDim_ * elementSize(out_.dtype);
  for (int64_t t = plan.paddingBegin; t < out_.dims[0]; ++t)
    std::memset(out_.ptr<char>() + t * out_.strides[0] * elementSize(out_.dtype), 0, static_cast<size_t>(tokenBytes));
}

}  // namespace

void pagedAttention(Pool& pool, const Tensor& out, const Tensor& q, const Tensor& kvCache, const Tensor& blockTable, const Tensor& seqRows,
                    const Tensor& seqLens, const Tensor& queryStartLoc, double scale, int64_t slidingWindow, double logitsSoftCap,
                    const MaybeTensor& alibiSlopes, const MaybeTensor& sinks, double kScale, double vScale) {
  Attention attention(out, q, kvCache, scale, slidingWindow, logitsSoftCap, alibiSlopes, sinks, kScale, vScale);
  const AttentionPlan plan = planAttention(pool.size(), attention.group(), q.dims[0], kvCache.dims[0], blockTable, seqRows, seqLens, queryStartLoc, slidingWindow);
  attention.run(pool, plan);
}

}  // namespace kvasir::cpu
