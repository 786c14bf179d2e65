// Compares the CUDA sampler with the CPU backend, token for token, and times it. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/sampling_cuda_bench [largest vocabulary to check]
// or, from native/:
//   F="-std=c++20 -O3 -fno-math-errno -fno-trapping-math -I. -DKVASIR_X86" A="-mavx2 -mfma -mf16c" O=/tmp/sampling_cuda_bench
//   B="$A -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512"; mkdir -p $O
//   g++ $F $A -c cpu/sampling_loops_avx2.cc -o $O/avx2.o; g++ $F $B -c cpu/sampling_loops_avx512.cc -o $O/avx512.o
//   for f in cpu/{sampling,sampling_draw,sampling_logprobs,sampling_loops,sampling_select,sampling_top,isa,parallel} core/error; do
//     g++ $F -c $f.cc -o $O/$(basename $f).o; done
//   N="-std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -I."
//   nvcc $N bench/sampling_cuda_bench.cu cuda/{sampling*,stream,loader,staging}.cu cuda/gemm/*.{cu,cc} $O/*.o -o $O/bench -ldl -lpthread && $O/bench
// One PASS or FAIL line per group of checks; the exit status is 1 if a check fails. Then timings as JSON lines, if the largest vocabulary
// is at least 128256 (the default): the time of one call out of ten in a row, median and best of ten such rows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/sampling.h"
#include "cuda/kernels.h"

using namespace kvasir;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

// The same contents on both sides; `tensor` has rows of `cols` elements, `stride` apart, after `offset` elements.
template <class T>
struct Twin {
  std::vector<T> host;
  T* device = nullptr;
  int64_t rows, cols, stride, offset;
  int rank;

  Twin(int64_t r, int64_t c, int rank = 2, int64_t extra = 0, int64_t off = 0)
      : host(static_cast<size_t>(off + r * (c + extra))), rows(r), cols(c), stride(c + extra), offset(off), rank(rank) {
    KVASIR_CUDA(cudaMalloc(reinterpret_cast<void**>(&device), std::max<size_t>(16, host.size() * sizeof(T))));
  }
  Twin(const Twin&) = delete;
  ~Twin() { cudaFree(device); }
  T& at(int64_t r, int64_t c) { return host[static_cast<size_t>(offset + r * stride + c)]; }
  void upload() { KVASIR_CUDA(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
  std::vector<T> download(cuda::CudaStream& stream) {
    std::vector<T> result(host.size());
    KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
    KVASIR_CUDA(cudaMemcpy(result.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return result;
  }
  Tensor tensor(bool onDevice) {
    Tensor t;
    t.data = (onDevice ? device : host.data()) + offset;
    t.dtype = std::is_same_v<T, float> ? DType::Float32 : DType::Int32;
    t.rank = rank;
    t.dims[0] = rows;
    t.strides[0] = rank == 1 ? 1 : stride;
    t.dims[1] = cols;
    t.strides[1] = 1;
    return t;
  }
};

struct Setting {
  const char* name;
  float temperature = 1, topP = 1, minP = 0, topK = 0;
};

const Setting kSettings[] = {
    {"greedy", 0},
    {"plain"},
    {"cold", 0.2f},
    {"hot", 5},
    {"topK1", 1, 1, 0, 1},
    {"topK50", 1, 1, 0, 50},
    {"topK50 cold", 0.1f, 1, 0, 50},
    {"topK2000", 1.3f, 1, 0, 2000},
    {"topP0.5", 1, 0.5f},
    {"topP0.95", 0.8f, 0.95f},
    {"topP0.999", 1, 0.999f},
    {"topP1e-6", 1, 1e-6f},
    {"minP0.05", 1, 1, 0.05f},
    {"minP0.01 topP0.9", 1.3f, 0.9f, 0.01f},
    {"topK50 topP0.95", 1, 0.95f, 0, 50},
    {"minP0.02 topK40 topP0.8", 1.5f, 0.8f, 0.02f, 40},
};
constexpr int kNumSettings = sizeof kSettings / sizeof *kSettings;

enum class Shape { Normal, Flat, Peaked, Ties, Equal, Masked, SomeThreads, Special };
const char* const kShapeNames[] = {"normal", "flat", "peaked", "ties", "equal", "masked", "some threads", "special"};

void fillLogits(Twin<float>& x, Shape shape, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::fill(x.host.begin(), x.host.end(), kNan);  // the padding between rows must not be read
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < x.cols; ++c) {
      const float g = normal(engine);
      float v = 2 * g;
      if (shape == Shape::Flat) v = 0.3f * g;
      if (shape == Shape::Peaked) v = 3 * g + (c % 997 == r % 997 ? 12.0f : 0.0f);
      if (shape == Shape::Ties) v = std::round(2 * g * 4) / 4;
      if (shape == Shape::Equal) v = 1.5f;
      if (shape == Shape::Masked) v = c % 97 == r % 97 ? g : -kInfinity;
      if (shape == Shape::SomeThreads) v = c % 4096 < 2000 ? 20 + g : g;  // all large logits at 500 of 1024 threads
      x.at(r, c) = v;
    }
  if (shape != Shape::Special) return;
  for (int64_t r = 0; r < x.rows; ++r) {
    if (r % 4 == 0) x.at(r, x.cols - 1) = kNan;
    if (r % 4 == 1) for (int64_t c = 0; c < x.cols; ++c) x.at(r, c) = -kInfinity;
    if (r % 4 == 2) x.at(r, x.cols / 2) = kInfinity;
    if (r % 4 == 3) x.at(r, x.cols / 3) = -1e38f;
  }
}

struct Result {
  int64_t checked = 0, wrong = 0, near = 0;
  std::string first;
};

int failures = 0;
// Draws may differ where two scores, or a filter's edge, lie within rounding: at most one in 500.
void report(const std::string& group, const Result& r) {
  const bool ok = r.wrong == 0 && r.near <= 1 + r.checked / 500;
  failures += !ok;
  std::printf("%s %s: %lld checked, %lld wrong, %lld near ties%s%s\n", ok ? "PASS" : "FAIL", group.c_str(), static_cast<long long>(r.checked),
              static_cast<long long>(r.wrong), static_cast<long long>(r.near), r.first.empty() ? "" : "; first: ", r.first.c_str());
  std::fflush(stdout);
}

struct SampleState {
  Twin<float> params;
  Twin<int32_t> seeds, positions, rows, ids, counts;

  SampleState(int64_t numRows, int64_t states, int64_t vocab)
      : params(states, 8), seeds(states, 2), positions(numRows, 1, 1), rows(numRows, 1, 1), ids(numRows, 1, 1), counts(states, vocab) {
    std::mt19937 engine(99);
    for (auto& s : seeds.host) s = static_cast<int32_t>(engine());
    for (int64_t r = 0; r < numRows; ++r) {
      positions.host[static_cast<size_t>(r)] = static_cast<int32_t>(engine() % 100000);
      rows.host[static_cast<size_t>(r)] = static_cast<int32_t>(r % states);
      ids.host[static_cast<size_t>(r)] = -9;
    }
  }
  void set(int64_t state, const Setting& s, float repetition = 1, float presence = 0, float frequency = 0) {
    const float values[8] = {s.temperature, s.topP, s.minP, s.topK, repetition, presence, frequency, 0};
    for (int j = 0; j < 8; ++j) params.at(state, j) = values[j];
  }
  void upload() {
    params.upload();
    seeds.upload();
    positions.upload();
    rows.upload();
    ids.upload();
    counts.upload();
  }
  void run(cuda::CudaStream& stream, const Tensor& logits) {
    cuda::sample(stream, ids.tensor(true), logits, params.tensor(true), seeds.tensor(true), positions.tensor(true), rows.tensor(true), counts.tensor(true));
  }
};

void checkSample(cuda::CudaStream& stream, cpu::Pool& pool, int64_t vocab, Shape shape) {
  const int64_t numRows = 2 * kNumSettings + 1;
  const bool odd = static_cast<int>(shape) % 2;
  Twin<float> logits(numRows, vocab, 2, odd ? 3 : 0, odd ? 1 : 0);
  fillLogits(logits, shape, static_cast<uint32_t>(vocab));
  SampleState state(numRows, kNumSettings, vocab);
  for (int i = 0; i < kNumSettings; ++i) state.set(i, kSettings[i], 1, i % 3 ? 0.0f : 0.5f);
  state.rows.host.back() = -1;
  logits.upload();
  state.upload();
  state.run(stream, logits.tensor(true));
  cpu::sample(pool, state.ids.tensor(false), logits.tensor(false), state.params.tensor(false), state.seeds.tensor(false),
              state.positions.tensor(false), state.rows.tensor(false), state.counts.tensor(false));
  const auto ids = state.ids.download(stream), counts = state.counts.download(stream);
  Result result;
  for (int64_t r = 0; r < numRows; ++r) {
    const int32_t actual = ids[static_cast<size_t>(r)], expected = state.ids.host[static_cast<size_t>(r)];
    ++result.checked;
    if (actual == expected) continue;
    const bool drawn = actual >= 0 && actual < vocab && expected >= 0 && r % kNumSettings != 0;
    ++(drawn ? result.near : result.wrong);
    if (result.first.empty())
      result.first = std::string(kSettings[r % kNumSettings].name) + " row " + std::to_string(r) + ": " + std::to_string(actual) + ", CPU " + std::to_string(expected);
  }
  if (result.near == 0 && counts != state.counts.host) ++result.wrong;
  report("sample vocab " + std::to_string(vocab) + " " + kShapeNames[static_cast<int>(shape)], result);
}

void checkLogprobs(cuda::CudaStream& stream, cpu::Pool& pool, int64_t vocab, int64_t k, Shape shape) {
  const int64_t numRows = k > 512 ? 3 : 5;
  Twin<float> logits(numRows, vocab, 2, k % 2, k % 3);
  fillLogits(logits, shape, static_cast<uint32_t>(vocab + k));
  Twin<int32_t> targets(numRows, 1, 1), ranks(numRows, 1, 1), topIds(numRows, std::max<int64_t>(k, 1));
  Twin<float> logprobs(numRows, 1, 1), topLogprobs(numRows, std::max<int64_t>(k, 1));
  for (int64_t r = 0; r < numRows; ++r) targets.host[static_cast<size_t>(r)] = static_cast<int32_t>(r == 1 ? -1 : r * 7919 % vocab);
  logits.upload();
  targets.upload();
  const auto top = [&](auto& t, bool device) { return k ? MaybeTensor(t.tensor(device)) : MaybeTensor(); };
  cuda::samplingLogprobs(stream, logprobs.tensor(true), ranks.tensor(true), top(topIds, true), top(topLogprobs, true), logits.tensor(true), targets.tensor(true));
  cpu::samplingLogprobs(pool, logprobs.tensor(false), ranks.tensor(false), top(topIds, false), top(topLogprobs, false), logits.tensor(false), targets.tensor(false));
  Result result;
  const auto same = [&](const char* what, size_t i, double actual, double expected, double tolerance) {
    ++result.checked;
    if (actual == expected || (std::isnan(actual) && std::isnan(expected)) || std::abs(actual - expected) <= tolerance * (1 + std::abs(expected))) return;
    ++result.wrong;
    if (result.first.empty()) result.first = std::string(what) + " " + std::to_string(i) + ": " + std::to_string(actual) + ", CPU " + std::to_string(expected);
  };
  const auto p = logprobs.download(stream), tp = topLogprobs.download(stream);
  const auto rank = ranks.download(stream), ti = topIds.download(stream);
  for (size_t i = 0; i < p.size(); ++i) same("logprob", i, p[i], logprobs.host[i], 1e-6), same("rank", i, rank[i], ranks.host[i], 0);
  for (size_t i = 0; k && i < ti.size(); ++i) same("id", i, ti[i], topIds.host[i], 0), same("top logprob", i, tp[i], topLogprobs.host[i], 1e-6);
  report("logprobs vocab " + std::to_string(vocab) + " top " + std::to_string(k) + " " + kShapeNames[static_cast<int>(shape)], result);
}

void checkState(cuda::CudaStream& stream, cpu::Pool& pool, int64_t vocab) {
  std::mt19937 engine(5);
  const int64_t n = 1500;
  SampleState state(4, 3, vocab);
  for (int i = 0; i < 3; ++i) state.set(i, kSettings[1], i == 0 ? 1.3f : 1, i == 1 ? 0.7f : 0, i == 0 ? 0.25f : 0);
  for (auto& c : state.counts.host) c = 7;
  state.rows.host[3] = -1;
  Twin<float> logits(4, vocab, 2, 5, 1), values(n, 1, 1);
  Twin<int32_t> ids(n, 1, 1);
  fillLogits(logits, Shape::Normal, 3);
  for (auto& v : values.host) v = static_cast<float>(engine() % 1000) * 0.01f;
  for (auto& id : ids.host) id = static_cast<int32_t>(engine() % static_cast<uint32_t>(vocab));
  state.upload();
  logits.upload();
  values.upload();
  ids.upload();
  const auto steps = [&](auto&& backend, bool d) {
    for (int64_t row : {0, 1}) backend.countPrompt(state.counts.tensor(d), row, ids.tensor(d));
    backend.countOutput(state.counts.tensor(d), 1, ids.tensor(d));
    backend.penalties(logits.tensor(d), state.counts.tensor(d), state.params.tensor(d), state.rows.tensor(d));
    backend.bias(logits.tensor(d), 1, ids.tensor(d), values.tensor(d));
    backend.mask(logits.tensor(d), 2, ids.tensor(d), false);
    backend.mask(logits.tensor(d), 3, ids.tensor(d), true);
  };
  struct OnCuda {
    cuda::CudaStream& s;
    void countPrompt(Tensor a, int64_t row, Tensor b) { cuda::samplingCountPrompt(s, a, row, b); }
    void countOutput(Tensor a, int64_t row, Tensor b) { cuda::samplingCountOutput(s, a, row, b); }
    void penalties(Tensor a, Tensor b, Tensor c, Tensor e) { cuda::samplingPenalties(s, a, b, c, e); }
    void bias(Tensor a, int64_t row, Tensor b, Tensor c) { cuda::samplingBias(s, a, row, b, c); }
    void mask(Tensor a, int64_t row, Tensor b, bool keep) { cuda::samplingMask(s, a, row, b, keep); }
  };
  struct OnCpu {
    cpu::Pool& s;
    void countPrompt(Tensor a, int64_t row, Tensor b) { cpu::samplingCountPrompt(s, a, row, b); }
    void countOutput(Tensor a, int64_t row, Tensor b) { cpu::samplingCountOutput(s, a, row, b); }
    void penalties(Tensor a, Tensor b, Tensor c, Tensor e) { cpu::samplingPenalties(s, a, b, c, e); }
    void bias(Tensor a, int64_t row, Tensor b, Tensor c) { cpu::samplingBias(s, a, row, b, c); }
    void mask(Tensor a, int64_t row, Tensor b, bool keep) { cpu::samplingMask(s, a, row, b, keep); }
  };
  steps(OnCuda{stream}, true);
  steps(OnCpu{pool}, false);
  Result result;
  const auto x = logits.download(stream);
  const auto counts = state.counts.download(stream);
  for (size_t i = 0; i < x.size(); ++i, ++result.checked) result.wrong += std::memcmp(&x[i], &logits.host[i], 4) != 0 && !std::isnan(x[i]);
  for (size_t i = 0; i < counts.size(); ++i, ++result.checked) result.wrong += counts[i] != state.counts.host[i];
  report("counts, penalties, bias, masks, vocab " + std::to_string(vocab), result);
}

template <class F>
void time(cuda::CudaStream& stream, const char* what, int64_t numRows, const char* shape, F&& body) {
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 13; ++i) {
    KVASIR_CUDA(cudaEventRecord(begin, stream.handle()));
    for (int j = 0; j < 10; ++j) body();
    KVASIR_CUDA(cudaEventRecord(end, stream.handle()));
    KVASIR_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    KVASIR_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms * 100);
  }
  std::sort(times.begin(), times.end());
  std::printf("{\"bench\":\"sampling\",\"op\":\"%s\",\"rows\":%lld,\"vocab\":128256,\"logits\":\"%s\",\"medianUs\":%.1f,\"bestUs\":%.1f}\n", what,
              static_cast<long long>(numRows), shape, times[times.size() / 2], times[0]);
  std::fflush(stdout);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

void timeAll(cuda::CudaStream& stream, int64_t numRows, Shape shape) {
  const int64_t vocab = 128256;
  const char* name = kShapeNames[static_cast<int>(shape)];
  Twin<float> logits(numRows, vocab);
  fillLogits(logits, shape, 1);
  logits.upload();
  SampleState state(numRows, numRows, vocab);
  Twin<int32_t> ranks(numRows, 1, 1), topIds(numRows, 20);
  Twin<float> logprobs(numRows, 1, 1), topLogprobs(numRows, 20);
  for (const Setting& s : kSettings) {
    for (int64_t r = 0; r < numRows; ++r) state.set(r, s);
    state.upload();
    time(stream, s.name, numRows, name, [&] { state.run(stream, logits.tensor(true)); });
  }
  const auto score = [&](bool top) {
    cuda::samplingLogprobs(stream, logprobs.tensor(true), ranks.tensor(true), top ? MaybeTensor(topIds.tensor(true)) : MaybeTensor(),
                           top ? MaybeTensor(topLogprobs.tensor(true)) : MaybeTensor(), logits.tensor(true), state.rows.tensor(true));
  };
  time(stream, "logprobs", numRows, name, [&] { score(false); });
  time(stream, "logprobs top 20", numRows, name, [&] { score(true); });
  for (int64_t r = 0; r < numRows; ++r) state.set(r, kSettings[1], 1.1f, 0.1f, 0.1f);
  state.upload();
  time(stream, "penalties", numRows, name, [&] {
    cuda::samplingPenalties(stream, logits.tensor(true), state.counts.tensor(true), state.params.tensor(true), state.rows.tensor(true));
  });
}

}  // namespace

int main(int argc, char** argv) try {
  const int64_t largest = argc > 1 ? std::atoll(argv[1]) : 128256;
  cuda::CudaStream stream(0);
  cpu::Pool pool(2);
  for (int64_t vocab : {1, 7, 512, 2048, 10007, 50257, 128256}) {
    if (vocab > largest) continue;
    for (int shape = 0; shape <= static_cast<int>(Shape::Special); ++shape) checkSample(stream, pool, vocab, static_cast<Shape>(shape));
    for (int64_t k : {int64_t{0}, int64_t{1}, int64_t{20}, int64_t{512}, int64_t{600}, vocab})
      if (k <= vocab)
        for (Shape shape : {Shape::Ties, Shape::Equal, Shape::SomeThreads, Shape::Special}) checkLogprobs(stream, pool, vocab, k, shape);
    checkState(stream, pool, vocab);
  }
  if (largest >= 128256)
    for (int64_t numRows : {1, 64, 256})
      for (Shape shape : {Shape::Normal, Shape::Peaked}) timeAll(stream, numRows, shape);
  std::printf("%s\n", failures ? "FAILED" : "ALL PASS");
  stream.shutdown();
  return failures ? 1 : 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
