// Checks and times the linear layers with quantized weights on the current GPU. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/quant_cuda_bench [check] [time]
// Both run by default; the exit status is 1 if a check fails. A check compares with a float64 reference of the host; it prints one PASS
// or FAIL line. Timings are one JSON line per shape, format and number of rows: those of a graph of launches whose weights rotate over
// more memory than the L2 cache holds, as the layers of a model do; the best of five launches. gbps counts codes and scales only.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/gemm_cuda_common.cuh"
#include "cuda/kernels.h"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

enum class Kind { Int4, Int8, Fp8 };

struct Format {
  const char* name;
  Kind kind;
  int64_t group;  // -1: all inputs
  int64_t blockN;
  bool zeros;
  int64_t activation;  // 0: not rounded
  double tolerance;
};
constexpr Format kFormats[] = {
    {"int4 g128", Kind::Int4, 128, 1, false, 0, 4e-3},     {"int4 g128 zeros", Kind::Int4, 128, 1, true, 0, 4e-3},
    {"int4 g32 zeros", Kind::Int4, 32, 1, true, 0, 4e-3},  {"int4 rows", Kind::Int4, -1, 1, false, 0, 4e-3},
    {"int8 rows", Kind::Int8, -1, 1, false, 0, 4e-3},      {"int8 rows dynamic", Kind::Int8, -1, 1, false, 1, 1.2e-2},
    {"int8 g64", Kind::Int8, 64, 1, false, 0, 4e-3},       {"fp8 rows", Kind::Fp8, -1, 1, false, 0, 4e-3},
    {"fp8 rows dynamic", Kind::Fp8, -1, 1, false, 1, 4e-2}, {"fp8 128x128", Kind::Fp8, 128, 128, false, 0, 4e-3},
};
constexpr bool kTimed[] = {true, true, false, false, true, true, false, true, true, true};
static_assert(std::size(kTimed) == std::size(kFormats));

int64_t groupOf(const Format& f, int64_t k) { return f.group < 0 ? k : f.group; }
int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

Tensor matrix(void* data, DType dtype, int64_t rows, int64_t columns) {
  Tensor t;
  t.data = data, t.dtype = dtype, t.rank = 2;
  t.dims[0] = rows, t.dims[1] = columns, t.strides[0] = columns, t.strides[1] = 1;
  return t;
}

// A weight at `at` with its scales (bfloat16, fp8: float32) and zeros behind it; `bytes` is what they take.
struct Weight {
  Tensor codes, scales;
  MaybeTensor zeros;
  int64_t bytes;
};
Weight weightAt(const Format& f, int64_t n, int64_t k, char* at) {
  const int64_t groups = ceilDivide(k, groupOf(f, k)), scaleRows = ceilDivide(n, f.blockN), rowBytes = f.kind == Kind::Int4 ? k / 2 : k;
  const auto padded = [](int64_t bytes) { return ceilDivide(bytes, 256) * 256; };
  const DType types[] = {DType::UInt8, DType::Int8, DType::Float8E4M3};
  Weight w{};
  w.codes = matrix(at, types[static_cast<int>(f.kind)], n, rowBytes);
  w.bytes = padded(n * rowBytes);
  w.scales = matrix(at + w.bytes, f.kind == Kind::Fp8 ? DType::Float32 : DType::BFloat16, scaleRows, groups);
  w.bytes += padded(scaleRows * groups * elementSize(w.scales.dtype));
  if (f.zeros) {
    w.zeros = matrix(at + w.bytes, DType::UInt8, n, groups);
    w.bytes += padded(n * groups);
  }
  w.codes.layout = Layout::Packed;
  return w;
}

void multiply(CudaStream& stream, const Format& f, const Tensor& out, const Tensor& x, const Weight& w) {
  if (f.kind == Kind::Int4) return linearInt4(stream, out, x, w.codes, w.scales, w.zeros, std::nullopt, false);
  if (f.kind == Kind::Int8) return linearInt8(stream, out, x, w.codes, w.scales, std::nullopt, f.activation != 0);
  linearFp8(stream, out, x, w.codes, w.scales, std::nullopt, f.blockN, groupOf(f, x.dim(1)), f.activation, 1);
}

// ---- checks -----------------------------------------------------------------------------------------------------------------------

uint32_t state = 1;
uint32_t next() {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}
float uniform() { return static_cast<float>(next()) / 8388608.0f - 1.0f; }

void upload(CudaStream& stream, void* to, const void* from, size_t bytes) {
  KVASIR_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream.handle()));
  KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
}

// A random weight in host memory, and its numbers [n, k].
std::vector<double> randomWeight(const Format& f, int64_t n, int64_t k, const Weight& w, char* codes) {
  const int64_t group = groupOf(f, k), groups = w.scales.dim(1);
  std::vector<double> values(static_cast<size_t>(n * k));
  char* const scales = codes + (static_cast<char*>(w.scales.data) - static_cast<char*>(w.codes.data));
  uint8_t* const zeros = w.zeros ? reinterpret_cast<uint8_t*>(codes + (w.zeros->ptr<char>() - w.codes.ptr<char>())) : nullptr;
  for (int64_t i = 0; i < n * w.codes.dim(1); ++i) codes[i] = static_cast<char>(next() & (f.kind == Kind::Fp8 ? 0xbfu : 0xffu));
  for (int64_t i = 0; i < w.scales.numel(); ++i) {
    const float scale = 0.01f + 0.005f * uniform();
    if (f.kind == Kind::Fp8) reinterpret_cast<float*>(scales)[i] = scale;
    else reinterpret_cast<bf16*>(scales)[i] = fromFloat<bf16>(scale);
  }
  for (int64_t i = 0; zeros && i < n * groups; ++i) zeros[i] = static_cast<uint8_t>(next() % 17);
  for (int64_t row = 0; row < n; ++row)
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = row / f.blockN * groups + i / group;
      const double scale = f.kind == Kind::Fp8 ? reinterpret_cast<float*>(scales)[at] : toFloat(reinterpret_cast<bf16*>(scales)[at]);
      const auto byte = static_cast<uint8_t>(codes[f.kind == Kind::Int4 ? (row * k + i) / 2 : row * k + i]);
      const double code = f.kind == Kind::Int4   ? (byte >> (i % 2 * 4) & 15) - (zeros ? zeros[at] : 8)
                          : f.kind == Kind::Int8 ? static_cast<int8_t>(byte)
                                                 : static_cast<double>(toFloat(f8e4m3{byte}));
      values[static_cast<size_t>(row * k + i)] = code * scale;
    }
  return values;
}

// The relative L2 error of one problem.
double errorOf(CudaStream& stream, const Format& f, int64_t m, int64_t n, int64_t k) {
  const Buffer memory(stream, weightAt(f, n, k, nullptr).bytes), input(stream, m * k * 2), output(stream, m * n * 4);
  const Weight w = weightAt(f, n, k, memory.data());
  std::vector<char> codes(static_cast<size_t>(w.bytes));
  const std::vector<double> values = randomWeight(f, n, k, w, codes.data());
  std::vector<bf16> x(static_cast<size_t>(m * k));
  for (bf16& v : x) v = fromFloat<bf16>(uniform());
  upload(stream, memory.data(), codes.data(), codes.size());
  upload(stream, input.data(), x.data(), x.size() * 2);
  stream.weightsChanged();
  multiply(stream, f, matrix(output.data(), DType::Float32, m, n), matrix(input.data(), DType::BFloat16, m, k), w);
  std::vector<float> actual(static_cast<size_t>(m * n));
  KVASIR_CUDA(cudaMemcpyAsync(actual.data(), output.data(), actual.size() * 4, cudaMemcpyDeviceToHost, stream.handle()));
  KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
  double error = 0, norm = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double expected = 0;
      for (int64_t d = 0; d < k; ++d) expected += static_cast<double>(toFloat(x[static_cast<size_t>(i * k + d)])) * values[static_cast<size_t>(j * k + d)];
      error += std::pow(actual[static_cast<size_t>(i * n + j)] - expected, 2);
      norm += expected * expected;
    }
  return std::sqrt(error / norm);
}

int runChecks(CudaStream& stream) {
  struct Shape {
    int64_t m, n, k;
  };
  constexpr Shape shapes[] = {{1, 272, 1024}, {1, 4096, 2176}, {3, 272, 1024}, {8, 96, 4096}, {16, 272, 1024}, {33, 144, 640}, {64, 80, 512}, {65, 272, 1024}, {300, 272, 640}, {130, 7936, 256}};
  int failed = 0;
  for (const Format& f : kFormats)
    for (const Shape& s : shapes) {
      if (f.group < 0 && s.k > 2048 && s.m == 8) continue;
      const double error = errorOf(stream, f, s.m, s.n, s.k);
      const bool ok = error <= f.tolerance;  // false for NaN
      failed += !ok;
      std::printf("%s %s m=%lld n=%lld k=%lld: relative L2 %.2e of %.2e\n", ok ? "PASS" : "FAIL", f.name, static_cast<long long>(s.m),
                  static_cast<long long>(s.n), static_cast<long long>(s.k), error, f.tolerance);
    }
  return failed;
}

// ---- timings ----------------------------------------------------------------------------------------------------------------------

constexpr int64_t kWeightBytes = 1200ll << 20, kMaxLaunches = 40, kMaxRows = 2048;

// Varied bytes that are numbers below 2 in each of the formats.
__global__ void fillKernel(uint32_t* to, int64_t words) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < words; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t hash = static_cast<uint32_t>(i) * 2654435761u;
    hash ^= hash >> 15;
    to[i] = (hash * 2246822519u) & 0xbfbfbfbfu;
  }
}

double measure(CudaStream& stream, const Format& f, const Buffer& memory, const Tensor& out, const Tensor& x) {
  const int64_t n = out.dim(1), k = x.dim(1), pitch = weightAt(f, n, k, nullptr).bytes, copies = std::min(kMaxLaunches, kWeightBytes / pitch);
  const auto launch = [&](int64_t i) { multiply(stream, f, out, x, weightAt(f, n, k, memory.data() + i % copies * pitch)); };
  launch(0);
  stream.beginCapture();
  for (int64_t i = 0; i < copies; ++i) launch(i);
  const int graph = stream.endCapture();
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  float best = 1e30f;
  for (int run = 0; run < 6; ++run) {  // the first one warms up
    KVASIR_CUDA(cudaEventRecord(begin, stream.handle()));
    stream.launchGraph(graph);
    KVASIR_CUDA(cudaEventRecord(end, stream.handle()));
    KVASIR_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (run > 0) best = std::min(best, milliseconds);
  }
  KVASIR_CUDA(cudaEventDestroy(begin));
  KVASIR_CUDA(cudaEventDestroy(end));
  stream.destroyGraph(graph);
  return best * 1e3 / static_cast<double>(copies);
}

void timeShapes(CudaStream& stream) {
  struct Shape {
    const char* layer;
    int64_t n, k;
  };
  constexpr Shape shapes[] = {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};
  const Buffer memory(stream, kWeightBytes), input(stream, kMaxRows * 14336 * 2), output(stream, kMaxRows * 28672 * 2);
  fillKernel<<<1024, 256, 0, stream.handle()>>>(reinterpret_cast<uint32_t*>(memory.data()), kWeightBytes / 4);
  fillKernel<<<1024, 256, 0, stream.handle()>>>(reinterpret_cast<uint32_t*>(input.data()), input.bytes() / 4);
  stream.weightsChanged();
  for (const Shape& s : shapes)
    for (size_t i = 0; i < std::size(kFormats); ++i)
      for (const int64_t m : {1, 2, 8, 16, 32, 64, 128, 256, 2048}) {
        const Format& f = kFormats[i];
        if (!kTimed[i]) continue;
        const double us = measure(stream, f, memory, matrix(output.data(), DType::BFloat16, m, s.n), matrix(input.data(), DType::BFloat16, m, s.k));
        const auto bytes = static_cast<double>(weightAt(f, s.n, s.k, nullptr).bytes);
        std::printf("{\"bench\":\"quant\",\"model\":\"8B\",\"layer\":\"%s\",\"n\":%lld,\"k\":%lld,\"m\":%lld,\"format\":\"%s\",\"us\":%.2f,\"gbps\":%.0f,\"tflops\":%.1f}\n",
                    s.layer, static_cast<long long>(s.n), static_cast<long long>(s.k), static_cast<long long>(m), f.name, us, bytes / us / 1e3,
                    2.0 * static_cast<double>(m * s.n * s.k) / us / 1e6);
        std::fflush(stdout);
      }
}

}  // namespace

int main(int argc, char** argv) {
  bool checks = argc == 1, timing = argc == 1;
  for (int i = 1; i < argc; ++i) {
    checks |= std::strcmp(argv[i], "check") == 0;
    timing |= std::strcmp(argv[i], "time") == 0;
  }
  try {
    CudaStream stream(0);
    std::printf("%s\n", stream.gemm().report().c_str());
    const int failed = checks ? runChecks(stream) : 0;
    if (timing) timeShapes(stream);
    stream.shutdown();
    return failed == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
