// Checks and times every kernel of cuda::linear on the current GPU. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/gemm_cuda_bench [check] [time]
// or, from native/:
//   F="-std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -I."
//   S="bench/gemm_cuda_bench.cu cuda/stream.cu cuda/staging.cu cuda/loader.cu core/error.cc"
//   nvcc $F -o /tmp/gemm_cuda_bench $S cuda/gemm/*.cu cuda/gemm/*.cc -ldl -lpthread && /tmp/gemm_cuda_bench
// Checks and timings both run by default; the exit status is 1 if a check fails.
// One PASS or FAIL line per group of checks, then one JSON line per shape, number of rows and kernel. Each time is that of a graph of
// launches whose weights rotate over more memory than the L2 cache holds, as the layers of a model do; the best of five launches.
#include <algorithm>
#include <cstring>

#include "bench/gemm_cuda_checks.cuh"
#include "bench/gemm_cuda_common.cuh"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

struct Shape {
  const char* model;
  const char* layer;
  int64_t n, k;
  bool head;  // float32 output, few rows
};

constexpr Shape kShapes[] = {
    {"8B", "qkv", 6144, 4096, false},   {"8B", "o", 4096, 4096, false},        {"8B", "gate_up", 28672, 4096, false}, {"8B", "down", 4096, 14336, false},
    {"8B", "head", 128256, 4096, true}, {"1B", "qkv", 3072, 2048, false},      {"1B", "o", 2048, 2048, false},        {"1B", "gate_up", 16384, 2048, false},
    {"1B", "down", 2048, 8192, false},  {"1B", "head", 128256, 2048, true},
};
constexpr int64_t kRows[] = {1, 2, 8, 16, 64, 128, 256, 2048};
constexpr int64_t kWeightBytes = 1200ll << 20, kMaxLaunches = 40;

struct Memory {
  explicit Memory(CudaStream& stream) : weights(stream, kWeightBytes), x(stream, 2048 * 14336 * 2), out(stream, 2048ll * 28672 * 4) {
    fillRandom(stream, weights.data(), DType::BFloat16, kWeightBytes / 2, 11);
    fillRandom(stream, x.data(), DType::BFloat16, 2048 * 14336, 12);
  }
  Buffer weights, x, out;
};

// Microseconds of one launch, or less than zero if the kernel does not take the shape.
double measure(CudaStream& stream, const Memory& memory, const Shape& shape, int64_t m, Kernel kernel, LtPlans* plans) {
  const int64_t bytes = shape.n * shape.k * 2, copies = std::min(kMaxLaunches, kWeightBytes / bytes);
  GemmArgs args{memory.x.data(), memory.weights.data(), nullptr, memory.out.data(), m, shape.n, shape.k, shape.k, shape.k, shape.n, false, shape.head};
  if (!launchKernel(kernel, args, DType::BFloat16, stream, plans)) return -1;
  const int64_t launches = std::max<int64_t>(copies, 4);
  stream.beginCapture();
  for (int64_t i = 0; i < launches; ++i) {
    args.weight = memory.weights.data() + i % copies * bytes;
    launchKernel(kernel, args, DType::BFloat16, stream, plans, true);
  }
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
  return best * 1e3 / static_cast<double>(launches);
}

void print(const Shape& s, int64_t m, const char* kernel, double us, bool chosen) {
  if (us < 0) return;
  const double bytes = 2.0 * static_cast<double>(s.n * s.k + m * s.k) + static_cast<double>(m * s.n) * (s.head ? 4 : 2);
  std::printf("{\"bench\":\"gemm\",\"model\":\"%s\",\"layer\":\"%s\",\"n\":%lld,\"k\":%lld,\"m\":%lld,\"kernel\":\"%s\",\"us\":%.2f,\"gbps\":%.0f,\"tflops\":%.1f%s}\n",
              s.model, s.layer, static_cast<long long>(s.n), static_cast<long long>(s.k), static_cast<long long>(m), kernel, us, bytes / us / 1e3,
              2.0 * static_cast<double>(m * s.n * s.k) / us / 1e6, chosen ? ",\"default\":true" : "");
}

void timeShapes(CudaStream& stream, LtPlans* tuned, LtPlans* first, LtPlans* invariant) {
  const Memory memory(stream);
  for (const Shape& shape : kShapes)
    for (const int64_t m : kRows) {
      if (shape.head && m > 256) continue;
      const GemmPath path = chooseGemm(m, shape.n, shape.k, DType::BFloat16, true, tuned != nullptr, false);
      const int warps = gemvWarps(shape.n, shape.k, 2);
      if (m <= kGemvRows)
        for (const Kernel kernel : {Kernel::Gemv1, Kernel::Gemv2, Kernel::Gemv4, Kernel::Gemv8})
          print(shape, m, nameOf(kernel), measure(stream, memory, shape, m, kernel, nullptr),
                path == GemmPath::Gemv && (1 << (static_cast<int>(kernel) - static_cast<int>(Kernel::Gemv1))) == warps);
      print(shape, m, "mma", measure(stream, memory, shape, m, Kernel::Mma, nullptr), path == GemmPath::TensorCore);
      if (!tuned) continue;
      print(shape, m, "cublasLt/tuned", measure(stream, memory, shape, m, Kernel::CublasLt, tuned), path == GemmPath::CublasLt);
      print(shape, m, "cublasLt/first", measure(stream, memory, shape, m, Kernel::CublasLt, first), false);
      print(shape, m, "cublasLt/invariant", measure(stream, memory, shape, m, Kernel::CublasLt, invariant), false);
      std::fflush(stdout);
    }
}

int run(bool checks, bool timing) {
  CudaStream stream(0);
  int failed = 0;
  {
    Library tuned(stream, {}), first(stream, {.tune = false}), invariant(stream, {.batchInvariant = true});
    std::printf("%s\n", tuned.report.c_str());
    if (checks) failed = runChecks(stream, tuned);
    std::fflush(stdout);
    if (timing) timeShapes(stream, tuned.plans.get(), first.plans.get(), invariant.plans.get());
    if (tuned.plans && timing)
      for (const LtChoice& c : tuned.plans->choices())
        if (c.candidate > 0)
          std::printf("{\"bench\":\"gemm-choice\",\"rows\":%lld,\"n\":%lld,\"k\":%lld,\"dtype\":\"%s\",\"candidate\":%d,\"of\":%d,\"us\":%.2f}\n",
                      static_cast<long long>(c.rows), static_cast<long long>(c.n), static_cast<long long>(c.k), dtypeName(c.dtype), c.candidate,
                      c.candidates, static_cast<double>(c.microseconds));
  }
  stream.shutdown();
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  bool checks = argc == 1, timing = argc == 1;
  for (int i = 1; i < argc; ++i) {
    checks |= std::strcmp(argv[i], "check") == 0;
    timing |= std::strcmp(argv[i], "time") == 0;
  }
  try {
    return run(checks, timing) == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
