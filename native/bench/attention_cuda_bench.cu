// Checks and times paged attention on the current GPU. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/attention_cuda_bench [check] [time]
// or, from native/:
//   F="-std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -I."
//   S="bench/attention_cuda_bench.cu cuda/stream.cu cuda/staging.cu cuda/loader.cu core/error.cc"
//   nvcc $F -o /tmp/attention_cuda_bench $S cuda/attention/*.cu cuda/gemm/*.cu cuda/gemm/*.cc -ldl -lpthread && /tmp/attention_cuda_bench
// Checks and timings both run by default; the exit status is 1 if a check fails. One PASS or FAIL line per group of checks (cache slots
// without an attended key hold NaN), then one JSON line per timed case: the best of five replays of a graph of launches over different
// caches, so that keys come from memory and not from L2.
#include "bench/attention_cuda_checks.cuh"

#include "cuda/attention/plan.h"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

// Microseconds of one launch of a round over all batches.
double measure(CudaStream& stream, const std::vector<std::unique_ptr<Batch>>& batches) {
  const size_t launches = std::max<size_t>(8, batches.size());
  for (const auto& batch : batches) batch->launch();
  stream.beginCapture();
  for (size_t i = 0; i < launches; ++i) batches[i % batches.size()]->launch();
  const int graph = stream.endCapture();
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  float best = 1e30f;
  for (int i = 0; i < 6; ++i) {  // the first one warms up
    float milliseconds = 0;
    KVASIR_CUDA(cudaEventRecord(begin, stream.handle()));
    stream.launchGraph(graph);
    KVASIR_CUDA(cudaEventRecord(end, stream.handle()));
    KVASIR_CUDA(cudaEventSynchronize(end));
    KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i > 0) best = std::min(best, milliseconds);
  }
  KVASIR_CUDA(cudaEventDestroy(begin));
  KVASIR_CUDA(cudaEventDestroy(end));
  stream.destroyGraph(graph);
  return best * 1e3 / static_cast<double>(launches);
}

void timeCase(CudaStream& stream, const char* kind, const Case& c) {
  double keys = 0, products = 0, bytes = 0;
  for (const Sequence& s : c.sequences) {
    keys += s.seqLen;
    products += static_cast<double>(s.queryLen) * s.seqLen - 0.5 * static_cast<double>(s.queryLen) * (s.queryLen - 1);
  }
  bytes = keys * c.numKvHeads * c.headDim * 2 * static_cast<double>(elementSize(c.dtype));
  const int copies = static_cast<int>(std::clamp(2e8 / bytes + 1, 2.0, 16.0));
  std::vector<std::unique_ptr<Batch>> batches;
  for (int i = 0; i < copies; ++i) batches.push_back(std::make_unique<Batch>(stream, c));
  const double us = measure(stream, batches), flops = 4 * products * c.headDim * c.numKvHeads * c.group;
  std::printf("{\"case\": \"%s\", \"dtype\": \"%s\", \"headDim\": %d, \"numKvHeads\": %d, \"group\": %d, \"sequences\": %zu, \"queryLen\": %d, \"seqLen\": %d, "
              "\"window\": %d, \"us\": %.1f, \"GB/s\": %.0f, \"TFLOP/s\": %.1f}\n",
              kind, dtypeName(c.dtype), c.headDim, c.numKvHeads, c.group, c.sequences.size(), c.sequences[0].queryLen, c.sequences[0].seqLen, c.window, us,
              bytes / us / 1e3, flops / us / 1e6);
  std::fflush(stdout);
}

std::vector<Sequence> repeat(int count, Sequence s) { return std::vector<Sequence>(static_cast<size_t>(count), s); }

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
  std::vector<Sequence> skewed = repeat(63, {1, 512});
  skewed.push_back({1, 32768});
  timeCase(stream, "decode skewed (63 x 512, 1 x 32768)", {.dtype = bf16, .numKvHeads = 8, .group = 4, .sequences = skewed});
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

void checkPlan(Checks& checks) {
  using namespace kvasir::cuda::attention;
  bool splitsFit = true, leavesFit = true;
  for (int64_t pairs = 1; pairs < 20000; pairs = pairs * 5 / 4 + 1)
    for (const int64_t keys : {16, 300, 1024, 8192, 131072}) {
      const int splits = decodeSplits(pairs, keys, 132);
      splitsFit &= splits >= 1 && splits <= kMaxLeaves && (splits & (splits - 1)) == 0;
      splitsFit &= splits == 1 || pairs * splits <= decodePartials(pairs, 132);
    }
  for (int keys = 1; keys < 1 << 20; keys = keys + 1 + keys / 50) {
    const int tokens = leafTokens(keys);
    leavesFit &= tokens % kLeafStep == 0 && (keys + tokens - 1) / tokens <= kMaxLeaves;
  }
  checks.expect("plan: splits are powers of two and fit", splitsFit, "decodeSplits() and decodePartials() disagree");
  checks.expect("plan: at most kMaxLeaves leaves", leavesFit, "leafTokens() cuts too finely");
}

}  // namespace

int main(int argc, char** argv) {
  const auto asked = [&](const char* what) { return argc < 2 || std::any_of(argv + 1, argv + argc, [&](const char* arg) { return !std::strcmp(arg, what); }); };
  CudaStream stream(0);
  Checks checks(stream);
  if (asked("check")) {
    checkPlan(checks);
    for (const DType dtype : {DType::BFloat16, DType::Float16})
      for (const int headDim : {128, 64, 80, 96, 256}) checkKernels(checks, dtype, headDim);
    checkPlain(checks);
    checkLarge(checks);
    checkBits(checks);
    std::printf("%s\n", checks.failures() ? "SOME CHECKS FAILED" : "all checks passed");
  }
  if (asked("time")) timeAll(stream);
  return checks.failures() ? 1 : 0;
}
