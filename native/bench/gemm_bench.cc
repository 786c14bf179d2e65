// Speed of cpu::linear beside the ceilings of the machine, measured in the same run. Not part of the addon. From native/:
//   for f in isa parallel gemm gemm_job gemm_pack gemm_portable; do g++ -std=c++20 -O3 -DKVASIR_X86 -I. -c cpu/$f.cc -o /tmp/$f.o; done
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. -mavx2 -mfma -mf16c -c cpu/gemm_avx2.cc -o /tmp/gemm_avx2.o
//   A="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c"
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. $A -c cpu/gemm_avx512.cc -o /tmp/gemm_avx512.o
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. $A -mavx512bf16 -mavx512vnni -c cpu/gemm_avx512bf16.cc -o /tmp/gemm_avx512bf16.o
//   (cd /tmp && g++ -std=c++20 -O3 -DKVASIR_X86 -I"$OLDPWD" "$OLDPWD"/bench/gemm_bench.cc isa.o parallel.o gemm*.o -o gemm_bench -pthread)
//   /tmp/gemm_bench [threads=2] [dtype=bfloat16] [isa=3]
// Weights rotate over copies that exceed the caches, as the layers of a model do. Everything, ceilings too, is measured in rounds spread
// over the run and the best is kept, so that other work on the machine disturbs the ratios little.
#include <cstdio>
#include <cstring>
#include <iterator>

#include "bench/cpu_bench.h"
#include "cpu/gemm.h"

using namespace kvasir;
using namespace kvasir::bench;

namespace {

// ---- linear -----------------------------------------------------------------------------------------------------------------------

void fill(char* data, DType dtype, int64_t n) {  // plain data of varied bits: zeros would flatter the clock
  uint32_t state = 1;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    const float v = static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
    if (dtype == DType::Float32) reinterpret_cast<float*>(data)[i] = v;
    else if (dtype == DType::Float16) reinterpret_cast<f16*>(data)[i] = fromFloat<f16>(v);
    else reinterpret_cast<bf16*>(data)[i] = fromFloat<bf16>(v);
  }
}

constexpr int64_t kRows[] = {1, 2, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024};
constexpr int kRounds = 5;

struct Shape {
  int64_t n, k;
  double packSeconds = 1e30;
  double seconds[std::size(kRows)] = {};
};

void benchShape(cpu::Pool& pool, DType dtype, Shape& shape, const Memory& memory, const Memory& in, const Memory& result) {
  const int64_t n = shape.n, k = shape.k, weightBytes = n * k * elementSize(dtype), copies = memory.bytes / weightBytes;
  shape.packSeconds = std::min(shape.packSeconds, best(0, [&] { cpu::packLinear(pool, matrix(memory.data, dtype, n, k)); }));
  int64_t copy = 1;  // the first one has just been packed and is in the caches
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const double t = best(0.05, [&] {
      Tensor w = matrix(memory.data + copy++ % copies * weightBytes, dtype, n, k);
      w.layout = Layout::Packed;
      cpu::linear(pool, matrix(result.data, dtype, kRows[i], n), matrix(in.data, dtype, kRows[i], k), w, std::nullopt);
    });
    shape.seconds[i] = std::min(shape.seconds[i], t);
  }
}

void report(const Shape& s, DType dtype, const Ceilings& ceilings) {
  const double weightBytes = static_cast<double>(s.n * s.k * elementSize(dtype));
  std::printf("N=%lld K=%lld  pack %.1f GB/s\n", static_cast<long long>(s.n), static_cast<long long>(s.k), weightBytes / s.packSeconds * 1e-9);
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const double t = s.seconds[i], gflops = 2.0 * static_cast<double>(kRows[i] * s.n * s.k) / t * 1e-9, gbps = weightBytes / t * 1e-9;
    std::printf("  M=%-5lld %9.1f us  %7.1f GFLOP/s (%5.1f%%)  %6.1f GB/s (%5.1f%%)  %5.2fx the time of M=1\n", static_cast<long long>(kRows[i]),
                t * 1e6, gflops, gflops / ceilings.poolGflops * 100, gbps, gbps / ceilings.readGbps * 100, t / s.seconds[0]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const char* name = argc > 2 ? argv[2] : "bfloat16";
  if (argc > 3) cpu::setIsa(static_cast<cpu::Isa>(std::atoi(argv[3])));
  const DType dtype = !std::strcmp(name, "float32") ? DType::Float32 : !std::strcmp(name, "float16") ? DType::Float16 : DType::BFloat16;
  cpu::Pool pool(threads);
  const Memory memory(256 << 20), in(1024 * 8192 * 4), result(1024 * 8192 * 4);
  fill(memory.data, dtype, memory.bytes / elementSize(dtype));
  fill(in.data, dtype, in.bytes / elementSize(dtype));

  Shape shapes[] = {{2048, 2048}, {4096, 4096}, {8192, 2048}, {2048, 8192}, {512, 2048}};
  for (Shape& s : shapes) std::fill(std::begin(s.seconds), std::end(s.seconds), 1e30);
  Ceilings ceilings;
  for (int round = 0; round < kRounds; ++round)
    for (Shape& s : shapes) {
      measureCeilings(pool, dtype, memory, ceilings);
      benchShape(pool, dtype, s, memory, in, result);
    }
  std::printf("%d threads, %s, %s: ceilings %.1f GFLOP/s one core, %.1f pool, read %.1f GB/s\n", threads, dtypeName(dtype),
              cpu::isaName(cpu::isa()), ceilings.coreGflops, ceilings.poolGflops, ceilings.readGbps);
  for (const Shape& s : shapes) report(s, dtype, ceilings);
}
