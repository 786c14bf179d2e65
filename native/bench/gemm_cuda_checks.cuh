// Correctness of the linear kernels on a GPU, against float64. Included by gemm_cuda_bench.cu only.
#pragma once

#include <cmath>
#include <cstring>

#include "bench/gemm_cuda_common.cuh"
#include "cuda/gemm/element.cuh"

namespace kvasir::cuda::bench {

namespace {

template <class T>
__global__ void fillKernel(T* to, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) * 40503u ^ seed * 2246822519u;
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    h ^= h >> 16;
    to[i] = convert<T>(static_cast<float>(static_cast<int32_t>(h)) * (1.0f / 2147483648.0f));
  }
}

template <class T>
__global__ void referenceKernel(GemmArgs a, double* out) {
  const int64_t column = blockIdx.x * 128ll + threadIdx.x, row = blockIdx.y;
  if (column >= a.n) return;
  const T* x = static_cast<const T*>(a.x) + row * a.xStride;
  const T* w = static_cast<const T*>(a.weight) + column * a.weightStride;
  double sum = biasAt<T>(a, column);
  for (int64_t i = 0; i < a.k; ++i) sum += static_cast<double>(toFloatDevice(x[i])) * static_cast<double>(toFloatDevice(w[i]));
  out[row * a.n + column] = sum;
}

double decode(const char* at, DType dtype) {
  if (dtype == DType::Float32) {
    float v;
    std::memcpy(&v, at, sizeof v);
    return v;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return dtype == DType::Float16 ? toFloat(f16{bits}) : toFloat(bf16{bits});
}

std::vector<char> download(CudaStream& stream, const void* from, int64_t bytes) {
  std::vector<char> to(static_cast<size_t>(bytes));
  KVASIR_CUDA(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDeviceToHost, stream.handle()));
  KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
  return to;
}

struct Case {
  int64_t m, n, k;
  DType dtype;
  int bias;  // 0 none, 1 of the dtype, 2 float32
  bool outFloat;
  int64_t gap;  // elements between rows of x and of out
};

// The operands of a case; out has two more rows than asked for and everything in it is 0xff.
struct Operands {
  Operands(CudaStream& stream, const Case& c)
      : outType(c.outFloat ? DType::Float32 : c.dtype), biasType(c.bias == 2 ? DType::Float32 : c.dtype),
        x(stream, c.m * (c.k + c.gap) * elementSize(c.dtype)), weight(stream, c.n * c.k * elementSize(c.dtype)),
        bias(stream, c.n * elementSize(biasType)), out(stream, (c.m + 2) * (c.n + c.gap) * elementSize(outType)) {
    fillRandom(stream, x.data(), c.dtype, c.m * (c.k + c.gap), 1);
    fillRandom(stream, weight.data(), c.dtype, c.n * c.k, 2);
    fillRandom(stream, bias.data(), biasType, c.n, 3);
    args = {x.data(), weight.data(), c.bias ? bias.data() : nullptr, out.data(), c.m, c.n, c.k, c.k + c.gap, c.k, c.n + c.gap, c.bias == 2, c.outFloat};
    poison(stream);
  }
  void poison(CudaStream& stream) { KVASIR_CUDA(cudaMemsetAsync(out.data(), 0xff, static_cast<size_t>(out.bytes()), stream.handle())); }
  DType outType, biasType;
  Buffer x, weight, bias, out;
  GemmArgs args;
};

struct Group {
  const char* name;
  int cases = 0, failed = 0;
  double worst = 0;  // of the tolerance
  void fail(const Case& c, const char* kernel, const char* why, double value) {
    if (++failed <= 5)
      std::printf("  %s %s m=%lld n=%lld k=%lld bias=%d outFloat=%d gap=%lld: %s %g\n", kernel, dtypeName(c.dtype), static_cast<long long>(c.m),
                  static_cast<long long>(c.n), static_cast<long long>(c.k), c.bias, c.outFloat, static_cast<long long>(c.gap), why, value);
  }
  int finish() const {
    std::printf("%s %s: %d cases, worst %.2f of the tolerance\n", failed ? "FAIL" : cases ? "PASS" : "SKIP", name, cases, worst);
    return failed ? 1 : 0;
  }
};

void compare(CudaStream& stream, Group& group, const Case& c, const Operands& o, const std::vector<double>& expected, const char* kernel) {
  ++group.cases;
  const std::vector<char> bytes = download(stream, o.out.data(), o.out.bytes());
  const int64_t size = elementSize(o.outType), width = c.n + c.gap;
  double error = 0, norm = 0;
  int64_t touched = 0;
  for (int64_t row = 0; row < c.m + 2; ++row)
    for (int64_t column = 0; column < width; ++column) {
      const char* at = bytes.data() + (row * width + column) * size;
      if (row < c.m && column < c.n) {
        const double want = expected[static_cast<size_t>(row * c.n + column)], difference = decode(at, o.outType) - want;
        error += difference * difference;
        norm += want * want;
      } else {
        for (int64_t b = 0; b < size; ++b) touched += static_cast<unsigned char>(at[b]) != 0xff;
      }
    }
  const double relative = std::sqrt(error / std::fmax(norm, 1e-30)), tolerance = o.outType == DType::Float32 ? 1e-5 : 4e-3;
  if (!(relative <= tolerance)) group.fail(c, kernel, "relative L2", relative);
  if (touched) group.fail(c, kernel, "bytes written outside", static_cast<double>(touched));
  group.worst = std::fmax(group.worst, relative / tolerance);
}

void checkCase(CudaStream& stream, Group& group, const Case& c, const std::vector<Kernel>& kernels, LtPlans* plans) {
  Operands o(stream, c);
  const std::vector<double> expected = reference(stream, o.args, c.dtype, o.biasType);
  for (const Kernel kernel : kernels) {
    o.poison(stream);
    if (launchKernel(kernel, o.args, c.dtype, stream, plans)) compare(stream, group, c, o, expected, nameOf(kernel));
    else group.fail(c, nameOf(kernel), "not taken", 0);
  }
}

Tensor tensor(void* data, DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.rank = 2;
  t.dims[0] = rows;
  t.dims[1] = columns;
  t.strides[0] = stride;
  t.strides[1] = 1;
  return t;
}

void linearOf(CudaStream& stream, const Case& c, const Operands& o, int64_t firstRow, int64_t rows, char* out) {
  const Tensor x = tensor(o.x.data() + firstRow * o.args.xStride * elementSize(c.dtype), c.dtype, rows, c.k, o.args.xStride);
  MaybeTensor bias;
  if (c.bias) {
    bias = tensor(o.bias.data(), o.biasType, c.n, 1, 1);
    bias->rank = 1;
  }
  stream.gemm().linear(tensor(out, o.outType, rows, c.n, o.args.outStride), x, tensor(o.weight.data(), c.dtype, c.n, c.k, c.k), bias);
}

constexpr DType kTypes[] = {DType::Float32, DType::Float16, DType::BFloat16};
constexpr int64_t kAlignedShapes[][2] = {{1, 8}, {8, 8}, {63, 64}, {65, 176}, {172, 704}, {512, 704}, {2048, 2056}, {4096, 4096}};

int checkKernels(CudaStream& stream, LtPlans* plans) {
  Group gemv{"gemv"}, mma{"mma"}, fma{"fma"}, library{"cublasLt"};
  int turn = 0;
  for (const DType dtype : kTypes) {
    for (const auto& [n, k] : kAlignedShapes)
      for (const int64_t m : {1, 2, 3, 8, 16, 17, 33, 64, 65, 130, 513}) {
        const Case c{m, n, k, dtype, turn % 3, turn % 5 == 4, turn % 2 ? 8 : 0};
        ++turn;
        if (m <= 2) checkCase(stream, gemv, c, {Kernel::Gemv1, Kernel::Gemv2, Kernel::Gemv4, Kernel::Gemv8}, nullptr);
        if (dtype != DType::Float32) checkCase(stream, mma, c, {Kernel::Mma}, nullptr);
        Case own = c;  // the library's bias is of the output's type, and its rows are aligned
        own.bias = c.bias == 0 ? 0 : c.outFloat ? 2 : 1;
        if (plans && n % 8 == 0) checkCase(stream, library, own, {Kernel::CublasLt}, plans);
      }
    for (const int64_t n : {4096ll, 70000ll}) checkCase(stream, gemv, {1, n, n == 4096 ? 14336 : 128, dtype, 1, false, 0}, {Kernel::Gemv1, Kernel::Gemv8}, nullptr);
    for (const int64_t m : {1, 7, 64, 65, 300})
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 2}, {70, 13}, {65, 172}, {8, 2}, {129, 1027}, {50257, 33}}) {
        checkCase(stream, fma, {m, n, k, dtype, turn % 3, turn % 5 == 4, turn % 2 * 3}, {Kernel::Fma}, nullptr);
        ++turn;
      }
  }
  return gemv.finish() + mma.finish() + fma.finish() + library.finish();
}

int checkLinear(CudaStream& stream) {
  Group group{"linear"};
  int turn = 0;
  for (const DType dtype : kTypes)
    for (const int64_t m : {1, 2, 3, 20, 64, 700})
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 2}, {70, 13}, {65, 176}, {512, 704}, {64, 172}, {3072, 2048}}) {
        const Case c{m, n, k, dtype, turn % 3, turn % 5 == 4, (turn % 4) * (turn % 4) * 2};
        ++turn;
        const Operands o(stream, c);
        linearOf(stream, c, o, 0, m, o.out.data());
        compare(stream, group, c, o, reference(stream, o.args, dtype, o.biasType), "linear");
      }
  return group.finish();
}

int checkInvariance(CudaStream& stream) {
  Group group{"batch invariance"};
  for (const bool useCublasLt : {true, false}) {
    stream.gemm().configure({.useCublasLt = useCublasLt, .batchInvariant = true});
    for (const DType dtype : kTypes)
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{70, 1104}, {512, 2048}, {4096, 4096}, {2048, 8192}}) {
        const Case c{1100, n, k, dtype, 1, false, 0};
        const Operands o(stream, c);
        linearOf(stream, c, o, 0, c.m, o.out.data());
        const int64_t rowBytes = c.n * elementSize(dtype);
        const std::vector<char> whole = download(stream, o.out.data(), c.m * rowBytes);
        for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 1}, {1099, 1}, {5, 2}, {17, 5}, {100, 64}, {300, 300}, {0, 513}}) {
          ++group.cases;
          linearOf(stream, c, o, first, rows, o.out.data());
          const std::vector<char> part = download(stream, o.out.data(), rows * rowBytes);
          if (std::memcmp(part.data(), whole.data() + first * rowBytes, part.size()) != 0)
            group.fail(c, useCublasLt ? "cublasLt" : "own", "differs for rows", static_cast<double>(rows));
        }
      }
  }
  stream.gemm().configure({});
  return group.finish();
}

// A graph gives what the same calls gave before; a shape that was never seen is captured too.
int checkCapture(CudaStream& stream) {
  Group group{"graph capture"};
  for (const int64_t m : {1, 8, 48, 600}) {
    for (const bool planned : {true, false}) {
      const Case c{m, planned ? 1024 : 1088, 2048, DType::BFloat16, 1, false, 0};
      Operands o(stream, c);
      if (planned) linearOf(stream, c, o, 0, m, o.out.data());
      o.poison(stream);
      stream.beginCapture();
      linearOf(stream, c, o, 0, m, o.out.data());
      const int graph = stream.endCapture();
      stream.launchGraph(graph);
      compare(stream, group, c, o, reference(stream, o.args, c.dtype, o.biasType), planned ? "planned" : "new shape");
      stream.destroyGraph(graph);
    }
  }
  return group.finish();
}

// Offsets beyond 2^31 elements, seen at the last features of a weight of 4.9 GB.
int checkLargeWeight(CudaStream& stream, LtPlans* plans) {
  Group group{"large weight"};
  const int64_t n = 600000, k = 4096, tail = 64;
  const Case c{3, n, k, DType::BFloat16, 0, false, 0};
  Operands o(stream, c);
  for (const Kernel kernel : {Kernel::Gemv1, Kernel::Mma, Kernel::Fma, Kernel::CublasLt}) {
    if (kernel == Kernel::CublasLt && !plans) continue;
    GemmArgs args = o.args;
    args.m = kernel == Kernel::Gemv1 ? 2 : 3;
    o.poison(stream);
    if (!launchKernel(kernel, args, c.dtype, stream, plans)) group.fail(c, nameOf(kernel), "not taken", 0);
    GemmArgs last = args;
    last.weight = static_cast<const char*>(args.weight) + (n - tail) * k * 2;
    last.n = tail;
    const std::vector<double> expected = reference(stream, last, c.dtype, c.dtype);
    const std::vector<char> bytes = download(stream, o.out.data(), args.m * n * 2);
    double error = 0, norm = 0;
    for (int64_t row = 0; row < args.m; ++row)
      for (int64_t i = 0; i < tail; ++i) {
        const double want = expected[static_cast<size_t>(row * tail + i)];
        error += std::pow(decode(bytes.data() + (row * n + n - tail + i) * 2, DType::BFloat16) - want, 2);
        norm += want * want;
      }
    ++group.cases;
    const double relative = std::sqrt(error / norm);
    if (!(relative <= 4e-3)) group.fail(c, nameOf(kernel), "relative L2", relative);
    group.worst = std::fmax(group.worst, relative / 4e-3);
  }
  return group.finish();
}

}  // namespace

void fillRandom(CudaStream& stream, void* to, DType dtype, int64_t count, uint32_t seed) {
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    fillKernel<T><<<2048, 256, 0, stream.handle()>>>(static_cast<T*>(to), count, seed);
  });
  check(cudaGetLastError(), "fill");
}

std::vector<double> reference(CudaStream& stream, const GemmArgs& args, DType dtype, DType) {
  Buffer out(stream, args.m * args.n * 8);
  dispatchFloat(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const dim3 grid(static_cast<unsigned>((args.n + 127) / 128), static_cast<unsigned>(args.m));
    referenceKernel<T><<<grid, 128, 0, stream.handle()>>>(args, reinterpret_cast<double*>(out.data()));
  });
  check(cudaGetLastError(), "reference");
  const std::vector<char> bytes = download(stream, out.data(), out.bytes());
  std::vector<double> values(bytes.size() / 8);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Runs every check and prints PASS or FAIL per group; the number of failed groups.
int runChecks(CudaStream& stream, Library& library) {
  return checkKernels(stream, library.plans.get()) + checkLinear(stream) + checkInvariance(stream) + checkCapture(stream) +
         checkLargeWeight(stream, library.plans.get());
}

}  // namespace kvasir::cuda::bench
