// Correctness groups of attention_cuda_bench.cu. Each prints one line with PASS or FAIL, and its worst case.
#pragma once

#include <cstring>
#include <optional>

#include "bench/attention_cuda_case.cuh"

namespace kvasir::cuda::bench {

inline float toHost(DType dtype, const char* bytes, size_t i) {
  if (dtype == DType::Float32) return reinterpret_cast<const float*>(bytes)[i];
  if (dtype == DType::Float16) return toFloat(reinterpret_cast<const f16*>(bytes)[i]);
  return toFloat(reinterpret_cast<const bf16*>(bytes)[i]);
}

inline std::string describe(const Case& c) {
  char text[256];
  std::snprintf(text, sizeof text, "%s%s D=%d kv=%d G=%d window=%d cap=%g alibi=%d sinks=%d padding=%d gap=%d, %zu sequences:", dtypeName(c.dtype), c.fp8 ? " of fp8" : "", c.headDim, c.numKvHeads,
                c.group, c.window, c.softCap, c.alibi, c.sinks, c.padding, c.qGap, c.sequences.size());
  std::string all = text;
  for (size_t i = 0; i < std::min<size_t>(c.sequences.size(), 12); ++i) all += " " + std::to_string(c.sequences[i].queryLen) + "/" + std::to_string(c.sequences[i].seqLen);
  return all;
}

struct Difference {
  double all = 0, worstRow = 0;  // relative L2 over everything, and of the worst (token, head)
  long badRow = -1;
  bool zeroRows = true;  // rows without keys are exactly zero
};

inline Difference compare(const Case& c, const std::vector<char>& bytes, const std::vector<float>& expected) {
  Difference d;
  double error = 0, norm = 0;
  const size_t width = static_cast<size_t>(c.headDim);
  for (size_t row = 0; row * width < expected.size(); ++row) {
    double rowError = 0, rowNorm = 0;
    for (size_t i = row * width; i < (row + 1) * width; ++i) {
      const double got = toHost(c.dtype, bytes.data(), i);
      rowError += (got - expected[i]) * (got - expected[i]);
      rowNorm += static_cast<double>(expected[i]) * expected[i];
    }
    if (rowNorm == 0) {
      d.zeroRows &= rowError == 0;
      continue;
    }
    error += rowError, norm += rowNorm;
    const double relative = std::sqrt(rowError / rowNorm);
    if (!(relative <= d.worstRow)) d.worstRow = relative, d.badRow = static_cast<long>(row);
    if (relative != relative) break;
  }
  d.all = norm > 0 ? std::sqrt(error / norm) : 0;
  return d;
}

class Checks {
 public:
  explicit Checks(CudaStream& stream) : stream_(stream) {}
  int failures() const { return failures_; }
  CudaStream& stream() { return stream_; }

  void group(const std::string& name, const std::vector<Case>& cases) {
    int bad = 0;
    double all = 0, worst = 0;
    std::string first;
    for (const Case& c : cases) {
      Batch batch(stream_, c);
      const Difference d = compare(c, batch.run(), batch.reference());
      const double limit = c.dtype == DType::Float32 ? 1e-5 : c.dtype == DType::Float16 ? 1.5e-3 : 4.5e-3;
      if (!(d.all <= limit && d.worstRow <= 5 * limit && d.zeroRows)) {
        ++bad;
        char text[96];
        std::snprintf(text, sizeof text, " [error %.2e, row %ld %.2e, zero rows %s]", d.all, d.badRow, d.worstRow, d.zeroRows ? "ok" : "NOT ZERO");
        if (bad <= 4) first += "\n      " + describe(c) + text;
      }
      all = std::max(all, d.all), worst = std::max(worst, d.worstRow);
    }
    report(name, bad, cases.size(), all, worst, first);
  }

  // A sequence gives the same bits in each of these batches: rows of a query position are compared wherever it occurs.
  void sameBits(const std::string& name, Case c, const std::vector<std::vector<Sequence>>& batches) {
    struct Row {
      int id, position;
      std::vector<char> bytes;
    };
    std::vector<Row> seen;
    size_t bad = 0, compared = 0;
    std::string first;
    for (const auto& sequences : batches) {
      c.sequences = sequences;
      Batch batch(stream_, c);
      for (int repeat = 0; repeat < 3; ++repeat) {
        const std::vector<char> bytes = batch.run();
        const size_t rowBytes = static_cast<size_t>(batch.rowElements() * elementSize(c.dtype));
        for (size_t s = 0; s < sequences.size(); ++s)
          for (int j = 0; j < sequences[s].queryLen; ++j) {
            const char* row = bytes.data() + static_cast<size_t>(batch.start(s) + j) * rowBytes;
            const int id = sequences[s].id, position = sequences[s].seqLen - sequences[s].queryLen + j;
            const auto known = std::find_if(seen.begin(), seen.end(), [&](const Row& r) { return r.id == id && r.position == position; });
            if (known == seen.end()) {
              seen.push_back({id, position, std::vector<char>(row, row + rowBytes)});
              continue;
            }
            ++compared;
            if (std::memcmp(known->bytes.data(), row, rowBytes) != 0 && ++bad <= 3)
              first += "\n      sequence " + std::to_string(id) + " position " + std::to_string(position) + " in " + describe(c);
          }
      }
    }
    report(name, static_cast<int>(bad), compared, 0, 0, first);
  }

  void expect(const std::string& name, bool ok, const std::string& what) { report(name, ok ? 0 : 1, 1, 0, 0, ok ? "" : "\n      " + what); }

 private:
  void report(const std::string& name, int bad, size_t count, double all, double worst, const std::string& first) {
    std::printf("%s %-46s %d of %zu wrong, error %.2e, worst row %.2e%s\n", bad ? "FAIL" : "PASS", name.c_str(), bad, count, all, worst, first.c_str());
    std::fflush(stdout);
    if (bad) ++failures_;
  }
  CudaStream& stream_;
  int failures_ = 0;
};

inline std::vector<Sequence> decodes(std::initializer_list<int> lengths) {
  std::vector<Sequence> sequences;
  for (const int n : lengths) sequences.push_back({1, n});
  return sequences;
}

inline std::vector<Case> hooksOf(Case c) {
  std::vector<Case> cases;
  for (const int window : {0, 1, 16, 17, 100, 256, 1000})
    for (const int hooks : {0, 1, 2, 4, 7}) {
      c.window = window, c.softCap = hooks & 1 ? 5 : 0, c.alibi = hooks & 2, c.sinks = hooks & 4;
      cases.push_back(c);
    }
  return cases;
}

inline void checkHooks(Checks& checks, const std::string& name, DType dtype, int headDim, bool fp8, const std::vector<std::pair<const char*, std::vector<Sequence>>>& batches) {
  for (const auto& [what, sequences] : batches)
    checks.group(name + what, hooksOf({.dtype = dtype, .headDim = headDim, .numKvHeads = 2, .group = 4, .fp8 = fp8, .sequences = sequences}));
}

inline void checkKernels(Checks& checks, DType dtype, int headDim, bool fp8 = false) {
  const std::string name = std::string(dtypeName(dtype)) + (fp8 ? " of fp8" : "") + " D=" + std::to_string(headDim) + " ";
  const auto lengths = decodes({1, 15, 16, 17, 255, 256, 257, 511, 1000, 3000, 2});
  const std::vector<Sequence> prompts = {{17, 17}, {33, 33}, {64, 64}, {65, 65}, {129, 129}, {255, 255}, {257, 257}, {600, 600}};
  const std::vector<Sequence> chunks = {{100, 356}, {64, 1000}, {200, 1000}, {33, 48}, {130, 259}, {18, 2000}, {17, 272}};
  const std::vector<Sequence> mixed = {{3, 3}, {1, 16}, {2, 0}, {17, 33}, {0, 5}, {1, 257}, {40, 300}, {1, 1}, {70, 0}, {5, 700}, {16, 16}, {1, 1500}, {2, 900}, {4, 4}};
  std::vector<Case> decode, prefill, chunked, mixtures, gaps, pure;
  for (const int group : {1, 2, 3, 4, 5, 8, 12, 16, 20, 37}) {
    Case c{.dtype = dtype, .headDim = headDim, .numKvHeads = group > 8 ? 1 : 2, .group = group, .fp8 = fp8};
    const auto with = [&](std::vector<Sequence> sequences, int padding, int gap) {
      Case with = c;
      with.sequences = std::move(sequences), with.padding = padding, with.qGap = gap;
      return with;
    };
    decode.push_back(with(lengths, 0, 0));
    prefill.push_back(with(prompts, 0, 0));
    chunked.push_back(with(chunks, 0, 0));
    mixtures.push_back(with(mixed, 200, 0));
    gaps.push_back(with(mixed, 3, 6));
    gaps.push_back(with(lengths, 0, 3));
    // As many tokens as sequences: taken as decode, though it is not.
    std::vector<Sequence> odd = {{40, 300}, {3, 70}};
    odd.resize(43, {0, 5});
    pure.push_back(with(odd, 0, 0));
    pure.push_back(with({{1, 100}, {0, 0}, {1, 0}, {0, 0}}, 2, 0));
    pure.push_back(with({}, 5, 0));
  }
  checks.group(name + "decode", decode);
  checks.group(name + "prefill", prefill);
  checks.group(name + "prefill with context", chunked);
  checks.group(name + "mixed, short queries, padding", mixtures);
  checks.group(name + "unaligned q", gaps);
  checks.group(name + "as many tokens as sequences", pure);
  checkHooks(checks, name, dtype, headDim, fp8, {{"decode with hooks", lengths}, {"prefill with hooks", chunks}, {"mixed with hooks", mixed}});
}

inline void checkPlain(Checks& checks, bool fp8 = false) {
  for (const DType dtype : {DType::Float32, DType::Float16, DType::BFloat16}) {
    std::vector<Case> cases;
    for (const int headDim : {2, 8, 16, 26, 32, 40, 48, 112, 192, 320, 512})
      for (const int group : {1, 4, 5}) {
        Case c{.dtype = dtype, .headDim = headDim, .numKvHeads = 2, .group = group, .fp8 = fp8};
        c.sequences = {{3, 3}, {1, 16}, {2, 0}, {17, 33}, {0, 5}, {1, 257}, {40, 300}, {1, 1}};
        c.padding = 3, c.qGap = group;
        cases.push_back(c);
        c.window = 17, c.softCap = 5, c.alibi = c.sinks = true;
        cases.push_back(c);
      }
    checks.group(std::string(dtypeName(dtype)) + (fp8 ? " of fp8" : "") + " other head sizes", cases);
  }
  for (const int headDim : {64, 128, 256})
    checks.group((fp8 ? "float32 of fp8 D=" : "float32 D=") + std::to_string(headDim) + " hooks",
                 hooksOf({.dtype = DType::Float32, .headDim = headDim, .numKvHeads = 2, .group = 4, .fp8 = fp8, .sequences = {{1, 500}, {30, 300}, {0, 0}, {1, 0}, {5, 5}}, .padding = 2}));
}

inline void checkLarge(Checks& checks) {
  std::vector<Case> longs;
  for (const DType dtype : {DType::BFloat16, DType::Float16})
    for (const int window : {0, 5000}) {
      longs.push_back({.dtype = dtype, .headDim = 128, .numKvHeads = 2, .group = 4, .sequences = decodes({8192, 9000, 12345, 40000}), .window = window});
      longs.push_back({.dtype = dtype, .headDim = 128, .numKvHeads = 1, .group = 16, .sequences = decodes({40000}), .window = window, .sinks = true});
      longs.push_back({.dtype = dtype, .headDim = 64, .numKvHeads = 2, .group = 4, .sequences = {{3, 9001}, {100, 9100}, {1, 20000}}, .window = window});
    }
  checks.group("long contexts", longs);
  // The first key lies more than 2^31 elements into the cache.
  checks.group("blocks beyond 2^31 elements", {{.headDim = 128, .numKvHeads = 8, .group = 4, .sequences = {{1, 300}, {1, 17}}, .firstBlock = 70000},
                                                {.headDim = 128, .numKvHeads = 8, .group = 4, .sequences = {{1, 300}, {80, 200}}, .firstBlock = 70000},
                                                {.headDim = 120, .numKvHeads = 8, .group = 1, .sequences = {{1, 300}, {80, 200}}, .firstBlock = 75000}});
  Case many{.headDim = 64, .numKvHeads = 2, .group = 4};
  for (int i = 0; i < 300; ++i) many.sequences.push_back({i % 97 == 5 ? 150 : 1, 200 + i});
  checks.group("300 sequences", {many});
}

inline void checkBits(Checks& checks) {
  for (const int headDim : {64, 128, 256}) {
    const std::string name = "D=" + std::to_string(headDim) + " same bits ";
    Case c{.headDim = headDim, .numKvHeads = 2, .group = 4};
    std::vector<Sequence> few = {{1, 5000, 1}, {1, 700, 2}, {1, 9100, 3}}, some = few, crowd = few, mixed = few;
    for (int i = 0; i < 30; ++i) some.push_back({1, 100 + i, 10 + i});
    for (int i = 0; i < 700; ++i) crowd.push_back({1, 30 + i % 50, 100 + i});
    mixed.insert(mixed.begin(), {{90, 90, 5}, {0, 3, 6}, {33, 400, 7}});
    const std::vector<std::vector<Sequence>> batches = {{{1, 5000, 1}}, {{1, 700, 2}}, {{1, 9100, 3}}, few, some, crowd, mixed};
    checks.sameBits(name + "of decode in any batch", c, batches);
    c.sinks = c.alibi = true, c.softCap = 20, c.window = 4000;
    checks.sameBits(name + "of decode in any batch, hooks", c, batches);
    const std::vector<std::vector<Sequence>> chunked = {{{600, 600, 1}}, {{300, 300, 1}, {90, 90, 2}}, {{300, 600, 1}}, {{17, 577, 1}, {30, 30, 3}}, {{23, 600, 1}}, {{129, 400, 1}}};
    c.window = 100;
    checks.sameBits(name + "of prefill in any chunk, hooks", c, chunked);
    c.sinks = c.alibi = false, c.softCap = 0;
    checks.sameBits(name + "of prefill in any chunk, window", c, chunked);
    c.window = 0;
    checks.sameBits(name + "of prefill in any chunk", c, chunked);
  }
  Case c{.dtype = DType::BFloat16, .headDim = 40, .numKvHeads = 2, .group = 3};
  checks.sameBits("D=40 same bits in any batch and chunk", c, {{{70, 600, 1}, {1, 900, 2}}, {{1, 531, 1}}, {{30, 600, 1}}, {{1, 600, 1}}, {{1, 900, 2}}});
}

}  // namespace kvasir::cuda::bench
