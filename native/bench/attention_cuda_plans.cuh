// Decode attention with explicit plans: that none changes a bit, and which one is fastest.
#pragma once

#include "bench/attention_cuda_checks.cuh"
#include "bench/attention_cuda_measure.cuh"
#include "cuda/attention/attention.h"
#include "cuda/attention/plan.h"

namespace kvasir::cuda::bench {

inline constexpr int kAuto = 0, kOneBlock = 1 << 24;  // choices of blockTokens: the device's own, and a block per sequence

// A plan for one token per sequence with the memory that it needs.
struct ExplicitPlan {
  attention::DecodeLaunch launch{};
  std::optional<Buffer> partials, arrivals;
  int splits = 1;  // most blocks of a sequence; 0: the device chooses

  ExplicitPlan(CudaStream& stream, const Case& c, int blockTokens, int minLeafTokens, int earlyPages = 0) {
    using namespace attention;
    const int height = std::min(decodeTileRows(c.headDim, c.group), c.group), tiles = (c.group + height - 1) / height;
    int64_t slots = 0;
    for (const Sequence& s : c.sequences) {
      const int mine = splitsOf(s.seqLen, blockTokens, minLeafTokens);
      slots += mine;
      splits = std::max(splits, mine);
    }
    launch.tiles = tiles;
    launch.tileRows = height;
    launch.few = decodeOccupancy(c.headDim, decodeTileRows(c.headDim, height) / 8, elementSize(c.cacheType())) * stream.multiprocessors();
    launch.many = kManyBlocks * stream.multiprocessors();
    launch.blockTokens = blockTokens;
    launch.minLeafTokens = minLeafTokens;
    launch.earlyPages = earlyPages;
    const int64_t rows = blockTokens == 0 ? static_cast<int64_t>(c.sequences.size()) : slots;
    if (blockTokens == 0) slots += launch.many, splits = 0;
    launch.rows = static_cast<int>(rows);
    launch.all = true;
    const int64_t pairs = int64_t{c.numKvHeads} * tiles;
    partials.emplace(stream, slots * pairs * height * (c.headDim + 2) * int64_t{sizeof(float)});
    arrivals.emplace(stream, static_cast<int64_t>(c.sequences.size()) * pairs * int64_t{sizeof(int32_t)}, 0);
    launch.partials = partials->ptr<float>();
    launch.arrivals = arrivals->ptr<int32_t>();
  }
};

// Every plan twice, because a launch leaves its counters for the next.
inline void checkPlans(Checks& checks, bool fp8) {
  for (const int headDim : {64, 128, 256})
    for (const int group : {4, 16}) {
      Case c{.headDim = headDim, .numKvHeads = 2, .group = group, .fp8 = fp8, .sequences = decodes({5000, 1, 700, 9100, 257, 2048, 16, 20000, 1000, 511})};
      for (const int window : {0, 3000}) {
        c.window = window, c.sinks = window > 0;
        size_t wrong = 0, compared = 0;
        std::string first;
        for (const int leaf : {64, 128, 256, 512}) {
          Batch batch(checks.stream(), c);
          std::vector<char> expected;
          for (const int tokens : {kOneBlock, 64, 200, 256, 512, 1024, 2048, 4096, kAuto}) {
            ExplicitPlan plan(checks.stream(), c, tokens, leaf, tokens == 256 ? 3 : 0);
            for (int repeat = 0; repeat < 2; ++repeat) {
              const std::vector<char> bytes = batch.run(&plan.launch);
              if (expected.empty()) expected = bytes;
              ++compared;
              if (bytes != expected && ++wrong <= 3) first += "\n      " + std::to_string(tokens) + " keys a block, leaves of " + std::to_string(leaf) + " in " + describe(c);
            }
          }
          if (leaf == attention::kMinLeafTokens && batch.run() != expected && ++wrong <= 3) first += "\n      the op's own plan in " + describe(c);
        }
        checks.expect((fp8 ? "fp8 D=" : "D=") + std::to_string(headDim) + " group " + std::to_string(group) + " same bits by any plan" + (window ? ", window" : ""), wrong == 0,
                      std::to_string(wrong) + " of " + std::to_string(compared) + " differ" + first);
      }
    }
}

// What plan.h promises, for many batches.
inline void checkPlan(Checks& checks) {
  using namespace kvasir::cuda::attention;
  bool fits = true, powers = true, leavesFit = true;
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    const int few = 2 * 132, many = kManyBlocks * 132, pairs = 1 << random() % 8, sequences = 1 + static_cast<int>(random() % 300);
    const int width = 16 << random() % 14;
    std::vector<int> lengths;
    int64_t keys = 0;
    for (int i = 0; i < sequences; ++i) lengths.push_back(1 + static_cast<int>(random() % (random() % 4 ? 16 : width)));
    for (const int n : lengths) keys += n;
    const int tokens = blockTokens(static_cast<float>(keys * pairs), few, many);
    int64_t several = 0;
    for (const int n : lengths) {
      const int splits = splitsOf(n, tokens, round % 2 ? kMinLeafTokens : 0);
      powers &= splits >= 1 && splits <= kMaxLeaves && (splits & (splits - 1)) == 0;
      several += splits > 1 ? splits : 0;
    }
    fits &= several * pairs <= many;
  }
  for (const int least : {64, 128, 256, 512})
    for (int keys = 1; keys < 1 << 20; keys = keys + 1 + keys / 50) {
      const int tokens = leafTokens(keys, least);
      leavesFit &= tokens % kLeafStep == 0 && tokens >= least && leafCount(keys, least) >= 1 && leafCount(keys, least) <= kMaxLeaves;
    }
  checks.expect("plan: splits are powers of two", powers, "splitsOf()");
  checks.expect("plan: splits fit in a launch and its memory", fits, "blockTokens() cuts too finely");
  checks.expect("plan: at most kMaxLeaves leaves", leavesFit, "leafTokens() cuts too finely");
}

// GB/s by the number of pages that are fetched early. The op's own kernel before it is another decode; `small` is one that does nothing
// to speak of, as the rotation of a step's keys is, launched before each.
inline void earlyCase(CudaStream& stream, const std::string& name, const Case& c) {
  const Batches batches = batchesOf(stream, c);
  const double bytes = bytesOf(c);
  Case tiny = c;
  tiny.sequences = decodes({16});
  Batch small(stream, tiny);
  ExplicitPlan smallPlan(stream, tiny, kOneBlock, 0);
  const double alone = measure(stream, batches, [&](Batch&) { small.launch(&smallPlan.launch); });
  for (const int pages : {0, 1, 2, 4, 8}) {
    ExplicitPlan plan(stream, c, kAuto, 0, pages);
    const double us = measure(stream, batches, [&](Batch& b) { b.launch(&plan.launch); });
    const double after = measure(stream, batches, [&](Batch& b) { small.launch(&smallPlan.launch), b.launch(&plan.launch); });
    std::printf("{\"case\": \"decode %s\", \"earlyPages\": %d, \"us\": %.1f, \"GB/s\": %.0f, \"us after a small kernel\": %.1f, \"us of that alone\": %.1f}\n", name.c_str(),
                pages, us, bytes / us / 1e3, after, alone);
    std::fflush(stdout);
  }
}

// GB/s of each choice of keys per block and smallest leaf (0: a block's share); `auto` is what the device chooses with that smallest leaf.
inline void sweepCase(CudaStream& stream, const std::string& name, const Case& c) {
  const std::vector<int> choices = {kAuto, 64, 128, 256, 512, 1024, 2048, 4096, 8192, kOneBlock};
  const Batches batches = batchesOf(stream, c);
  const double bytes = bytesOf(c), own = measure(stream, batches, [](Batch& b) { b.launch(); });
  std::printf("\n%s: the op itself %.1f us, %.0f GB/s. GB/s (blocks of the longest sequence) by smallest leaf (rows) and keys per block:\n%10s", name.c_str(), own,
              bytes / own / 1e3, "leaf");
  for (const int tokens : choices)
    if (tokens == kAuto) std::printf("%10s", "auto");
    else if (tokens == kOneBlock) std::printf("%10s", "all");
    else std::printf("%10d", tokens);
  for (const int leaf : {0, 64, 128, 256, 512, 1024}) {
    std::printf("\n%10d", leaf);
    int last = -1;
    for (const int tokens : choices) {
      ExplicitPlan plan(stream, c, tokens, leaf);
      if (plan.launch.rows == last && tokens != kAuto) {
        std::printf("%10s", "same");
        continue;
      }
      last = plan.launch.rows;
      const double us = measure(stream, batches, [&](Batch& b) { b.launch(&plan.launch); });
      std::printf("%6.0f(%2d)", bytes / us / 1e3, plan.splits);
    }
    std::fflush(stdout);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace kvasir::cuda::bench
