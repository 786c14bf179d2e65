// Checks and times paged attention on the current GPU. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/attention_cuda_bench [check] [time] [fp8] [early] [--sweep]
// or, from native/:
//   F="-std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -I."
//   S="bench/attention_cuda_bench.cu cuda/stream.cu cuda/staging.cu cuda/loader.cu core/error.cc"
//   nvcc $F -o /tmp/attention_cuda_bench $S cuda/attention/*.cu cuda/gemm/*.cu cuda/gemm/*.cc -ldl -lpthread && /tmp/attention_cuda_bench
// Checks and timings both run by default (fp8: timings of float8_e4m3 caches alone); the exit status is 1 if a check fails. One PASS or FAIL line per group of checks (cache slots
// without an attended key hold NaN), then one JSON line per timed case. early: timings by kEarlyPages of cuda/attention/plan.h. --sweep adds a table per decode case: GB/s by the constants of
// cuda/attention/plan.h.
#include "bench/attention_cuda_plans.cuh"
#include "cuda/gemm/context.h"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

void timeCase(CudaStream& stream, const char* kind, const Case& c) {
  double products = 0;
  for (const Sequence& s : c.sequences) products += static_cast<double>(s.queryLen) * s.seqLen - 0.5 * static_cast<double>(s.queryLen) * (s.queryLen - 1);
  const double us = measure(stream, batchesOf(stream, c), [](Batch& b) { b.launch(); }), bytes = bytesOf(c), flops = 4 * products * c.headDim * c.numKvHeads * c.group;
  std::printf("{\"case\": \"%s\", \"dtype\": \"%s\", \"cache\": \"%s\", \"headDim\": %d, \"numKvHeads\": %d, \"group\": %d, \"sequences\": %zu, \"queryLen\": %d, \"seqLen\": %d, "
              "\"window\": %d, \"us\": %.1f, \"GB/s\": %.0f, \"TFLOP/s\": %.1f}\n",
              kind, dtypeName(c.dtype), dtypeName(c.cacheType()), c.headDim, c.numKvHeads, c.group, c.sequences.size(), c.sequences[0].queryLen, c.sequences[0].seqLen, c.window, us,
              bytes / us / 1e3, flops / us / 1e6);
  std::fflush(stdout);
}

std::vector<Sequence> repeat(int count, Sequence s) { return std::vector<Sequence>(static_cast<size_t>(count), s); }

// Decode of `count` sequences of `context` keys, and one of `longest`.
std::vector<Sequence> withOne(int count, int context, int longest) {
  std::vector<Sequence> sequences = repeat(count, {1, context});
  sequences.push_back({1, longest});
  return sequences;
}

void timeAll(CudaStream& stream) {
  const auto bf16 = DType::BFloat16;
  for (const int context : {1024, 8192})
    for (const int count : {1, 2, 4, 8, 32, 128}) timeCase(stream, "decode", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(count, {1, context})});
  for (const int context : {128, 300, 2048, 4096})
    for (const int count : {1, 64, 256}) timeCase(stream, "decode", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(count, {1, context})});
  timeCase(stream, "decode", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(1, {1, 131072})});
  timeCase(stream, "decode float16", {.dtype = DType::Float16, .numKvHeads = 8, .group = 4, .sequences = repeat(32, {1, 1024})});
  timeCase(stream, "decode small heads", {.dtype = bf16, .headDim = 64, .numKvHeads = 8, .group = 4, .sequences = repeat(64, {1, 1024})});
  timeCase(stream, "decode D 80 MHA", {.dtype = bf16, .headDim = 80, .numKvHeads = 32, .group = 1, .sequences = repeat(32, {1, 1024})});
  timeCase(stream, "decode MHA", {.dtype = bf16, .numKvHeads = 32, .group = 1, .sequences = repeat(32, {1, 1024})});
  timeCase(stream, "decode group 8", {.dtype = bf16, .numKvHeads = 1, .group = 8, .sequences = repeat(128, {1, 4096})});
  timeCase(stream, "decode group 16", {.dtype = bf16, .numKvHeads = 4, .group = 16, .sequences = repeat(32, {1, 4096})});
  timeCase(stream, "decode D 256", {.dtype = bf16, .headDim = 256, .numKvHeads = 8, .group = 2, .sequences = repeat(32, {1, 1024})});
  timeCase(stream, "decode soft cap", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(32, {1, 4096}), .softCap = 50});
  timeCase(stream, "decode skewed (63 x 512, 1 x 32768)", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = withOne(63, 512, 32768)});
  timeCase(stream, "decode skewed (31 x 256, 1 x 8192)", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = withOne(31, 256, 8192)});
  timeCase(stream, "decode skewed (127 x 1024, 1 x 32768)", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = withOne(127, 1024, 32768)});
  for (const int length : {512, 2048, 8192, 16384}) timeCase(stream, "prefill", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(1, {length, length})});
  timeCase(stream, "prefill", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill float16", {.dtype = DType::Float16, .numKvHeads = 8, .group = 4, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill chunk", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(1, {2048, 16384})});
  timeCase(stream, "prefill D 64", {.dtype = bf16, .headDim = 64, .numKvHeads = 8, .group = 4, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill D 80", {.dtype = bf16, .headDim = 80, .numKvHeads = 32, .group = 1, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill D 96", {.dtype = bf16, .headDim = 96, .numKvHeads = 32, .group = 1, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill D 256", {.dtype = bf16, .headDim = 256, .numKvHeads = 8, .group = 2, .sequences = repeat(4, {2048, 2048})});
  timeCase(stream, "prefill soft cap", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = repeat(4, {2048, 2048}), .softCap = 50});
  std::vector<Sequence> mixed = repeat(128, {1, 1024});
  mixed.insert(mixed.begin(), {1920, 1920});
  timeCase(stream, "mixed (1 x 1920, 128 decode of 1024)", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = mixed});
  timeCase(stream, "float32 decode", {.dtype = DType::Float32, .headDim = 64, .numKvHeads = 8, .group = 4, .sequences = repeat(8, {1, 1024})});
}

// What a float8_e4m3 cache gains.
void timeFp8(CudaStream& stream) {
  const auto bf16 = DType::BFloat16;
  for (const int context : {1024, 8192})
    for (const int count : {1, 8, 32, 128}) timeCase(stream, "decode", {.dtype = bf16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(count, {1, context})});
  timeCase(stream, "decode", {.dtype = bf16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(1, {1, 131072})});
  timeCase(stream, "decode float16", {.dtype = DType::Float16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(32, {1, 1024})});
  timeCase(stream, "decode small heads", {.dtype = bf16, .headDim = 64, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(64, {1, 1024})});
  timeCase(stream, "decode group 16", {.dtype = bf16, .numKvHeads = 4, .group = 16, .fp8 = true, .sequences = repeat(32, {1, 4096})});
  for (const int length : {512, 2048, 8192}) timeCase(stream, "prefill", {.dtype = bf16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(1, {length, length})});
  timeCase(stream, "prefill chunk", {.dtype = bf16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(1, {2048, 16384})});
  timeCase(stream, "prefill D 64", {.dtype = bf16, .headDim = 64, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(4, {2048, 2048})});
}

void earlyAll(CudaStream& stream) {
  for (const auto& [count, context] : std::initializer_list<std::pair<int, int>>{{32, 1024}, {128, 1024}, {8, 1024}, {1, 1024}, {8, 8192}, {32, 8192}, {64, 300}}) {
    const std::string name = std::to_string(count) + " x " + std::to_string(context);
    earlyCase(stream, name, {.dtype = DType::BFloat16, .numKvHeads = 8, .group = 4, .sequences = repeat(count, {1, context})});
    earlyCase(stream, name + " fp8", {.dtype = DType::BFloat16, .numKvHeads = 8, .group = 4, .fp8 = true, .sequences = repeat(count, {1, context})});
  }
}

void sweepAll(CudaStream& stream) {
  const auto sweep = [&](const std::string& name, std::vector<Sequence> sequences, int headDim = 128, int numKvHeads = 8, int group = 4) {
    sweepCase(stream, name, {.dtype = DType::BFloat16, .headDim = headDim, .numKvHeads = numKvHeads, .group = group, .sequences = std::move(sequences)});
  };
  for (const int context : {128, 300, 1024, 2048, 8192})
    for (const int count : {1, 4, 8, 32, 64, 128}) sweep(std::to_string(count) + " x " + std::to_string(context), repeat(count, {1, context}));
  sweep("256 x 300", repeat(256, {1, 300}));
  sweep("16 x 1024", repeat(16, {1, 1024}));
  sweep("1 x 131072", repeat(1, {1, 131072}));
  sweep("63 x 512, 1 x 32768", withOne(63, 512, 32768));
  sweep("31 x 256, 1 x 8192", withOne(31, 256, 8192));
  sweep("headDim 64, 32 x 1024", repeat(32, {1, 1024}), 64);
  sweep("headDim 64, 1 x 1024", repeat(1, {1, 1024}), 64);
  sweep("headDim 64, 128 x 1024", repeat(128, {1, 1024}), 64);
  sweep("32 kv heads of one, 32 x 1024", repeat(32, {1, 1024}), 128, 32, 1);
  sweep("one kv head of 8, 32 x 4096", repeat(32, {1, 4096}), 128, 1, 8);
}

}  // namespace

int main(int argc, char** argv) {
  bool words = false, sweep = false;
  for (int i = 1; i < argc; ++i) std::strcmp(argv[i], "--sweep") ? words = true : sweep = true;
  const auto asked = [&](const char* what) { return !words || std::any_of(argv + 1, argv + argc, [&](const char* arg) { return !std::strcmp(arg, what); }); };
  CudaStream stream(0);
  Checks checks(stream);
  if (asked("check")) {
    checkPlan(checks);
    for (const DType dtype : {DType::BFloat16, DType::Float16})
      for (const int headDim : {128, 64, 80, 96, 256})
        for (const bool fp8 : {false, true}) checkKernels(checks, dtype, headDim, fp8);
    for (const bool fp8 : {false, true}) checkPlain(checks, fp8);
    checkLarge(checks);
    stream.gemm().configure({.batchInvariant = true});
    checkBits(checks);
    for (const bool fp8 : {false, true}) checkPlans(checks, fp8);
    stream.gemm().configure({});
    std::printf("%s\n", checks.failures() ? "SOME CHECKS FAILED" : "all checks passed");
  }
  if (asked("time")) timeAll(stream);
  if (asked("time") || asked("fp8")) timeFp8(stream);
  if (words && asked("early")) earlyAll(stream);
  if (sweep) sweepAll(stream);
  return checks.failures() ? 1 : 0;
}
