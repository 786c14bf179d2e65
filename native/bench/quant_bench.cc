// Speed of the quantized linear layers: at one row beside the memory bandwidth, with more rows beside cpu::linear in bfloat16 of the same
// shape, all measured in the same run. Not part of the addon. From native/:
//   G="g++ -std=c++20 -O3 -fno-math-errno -fno-trapping-math -DKVASIR_X86 -I. -c" A2="-mavx2 -mfma -mf16c"
//   A="$A2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512" B="$A -mavx512bf16 -mavx512vnni"
//   for f in isa parallel gemm gemm_job gemm_pack gemm_portable quant quant_pack quant_portable; do $G cpu/$f.cc -o /tmp/$f.o; done
//   for f in gemm quant quant_dot; do $G $A2 cpu/${f}_avx2.cc -o /tmp/${f}_avx2.o; done
//   for f in gemm quant; do $G $A cpu/${f}_avx512.cc -o /tmp/${f}_avx512.o; $G $B cpu/${f}_avx512bf16.cc -o /tmp/${f}_avx512bf16.o; done
//   $G $B -mavx512vbmi cpu/quant_avx512vbmi.cc -o /tmp/quant_avx512vbmi.o; $G bench/quant_bench.cc -o /tmp/quant_bench.o
//   (cd /tmp && g++ isa.o parallel.o gemm*.o quant*.o -o quant_bench -pthread) && /tmp/quant_bench [threads=2] [isa=3] [rounds=5] [x=bfloat16]
#include <cstdio>
#include <cstring>
#include <iterator>

#include "bench/cpu_bench.h"
#include "cpu/gemm.h"
#include "cpu/quant.h"

using namespace kvasir;
using namespace kvasir::bench;

namespace {

struct Format {
  const char* name;
  int bits;  // of a weight; 16: cpu::linear
  int64_t group;
  bool zeros, dynamic;
  int64_t scaleBytes;
};
constexpr Format kFormats[] = {
    {"bfloat16", 16, 0, false, false, 0},
    {"int4 g32 dynamic", 4, 32, false, true, 2},
    {"int4 g32 zeros dynamic", 4, 32, true, true, 2},
    {"int4 g128 dynamic", 4, 128, false, true, 2},
    {"int4 g32", 4, 32, false, false, 2},
    {"int4 g128 zeros", 4, 128, true, false, 2},
    {"int8 rows dynamic", 8, -1, false, true, 4},
    {"int8 rows", 8, -1, false, false, 4},
    {"fp8 rows", 9, -1, false, false, 4},
    {"fp8 128x128", 9, 128, false, false, 4},
};
constexpr int64_t kRows[] = {1, 2, 4, 6, 8, 16, 64, 256, 512};
struct Shape {
  int64_t n, k;
};
constexpr Shape kShapes[] = {{4096, 4096}, {2048, 2048}, {2048, 8192}, {8192, 2048}};

struct Result {
  double seconds[std::size(kRows)], bytes;
};
Result results[std::size(kShapes)][std::size(kFormats)];

struct Weight {
  Tensor weight, scales;
  MaybeTensor zeros;
};

Tensor packed(Tensor t) {
  t.layout = Layout::Packed;
  return t;
}

// A weight at `at`, with its scales and zeros behind it as they would lie in memory of their own.
Weight weightAt(const Format& f, const Shape& s, char* at, int64_t* bytes) {
  const int64_t group = f.group <= 0 ? s.k : f.group, groups = s.k / group;
  Weight w;
  int64_t used = s.n * s.k * (f.bits == 9 ? 8 : f.bits) / 8;
  const DType type = f.bits == 4 ? DType::UInt8 : f.bits == 8 ? DType::Int8 : f.bits == 9 ? DType::Float8E4M3 : DType::BFloat16;
  w.weight = packed(matrix(at, type, s.n, f.bits == 4 ? s.k / 2 : s.k));
  const int64_t scaleRows = f.bits == 9 && f.group > 0 ? s.n / f.group : s.n;
  w.scales = matrix(at + used, f.scaleBytes == 2 ? DType::BFloat16 : DType::Float32, scaleRows, groups);
  if (f.bits != 9) w.scales = packed(w.scales);
  used += scaleRows * groups * f.scaleBytes;
  if (f.zeros) w.zeros = packed(matrix(at + used, DType::UInt8, s.n, groups)), used += s.n * groups;
  *bytes = used;
  return w;
}

void multiply(cpu::Pool& pool, const Format& f, const Tensor& out, const Tensor& x, const Weight& w) {
  const int64_t block = f.group > 0 ? f.group : x.dim(1);
  if (f.bits == 16) cpu::linear(pool, out, x, w.weight, std::nullopt);
  if (f.bits == 4) cpu::linearInt4(pool, out, x, w.weight, w.scales, w.zeros, std::nullopt, f.dynamic);
  if (f.bits == 8) cpu::linearInt8(pool, out, x, w.weight, w.scales, std::nullopt, f.dynamic);
  if (f.bits == 9) cpu::linearFp8(pool, out, x, w.weight, w.scales, std::nullopt, f.group > 0 ? block : 1, block, 0, 1);
}

void fill(const Memory& memory) {  // small bfloat16 numbers, whose bytes are varied codes too
  uint32_t state = 1;
  for (int64_t i = 0; i < memory.bytes / 2; ++i) {
    state = state * 1664525u + 1013904223u;
    reinterpret_cast<uint16_t*>(memory.data)[i] = static_cast<uint16_t>(((state >> 9) & 0x80ffu) | 0x3b00u);
  }
}

// Weights rotate over copies that exceed the caches, as the layers of a model do.
void benchFormat(cpu::Pool& pool, DType dtype, const Shape& s, const Format& f, const Memory& memory, const Memory& in,
                 const Memory& result, Result& r) {
  int64_t bytes = 0, copy = 0;
  weightAt(f, s, memory.data, &bytes);
  r.bytes = static_cast<double>(bytes);
  const int64_t pitch = (bytes + 4095) / 4096 * 4096, copies = memory.bytes / pitch;
  const DType type = f.bits == 16 ? DType::BFloat16 : dtype;
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const double t = best(0.05, [&] {
      int64_t ignored;
      const Weight w = weightAt(f, s, memory.data + copy++ % copies * pitch, &ignored);
      multiply(pool, f, matrix(result.data, type, kRows[i], s.n), matrix(in.data, type, kRows[i], s.k), w);
    });
    r.seconds[i] = std::min(r.seconds[i], t);
  }
}

void report(const Shape& s, const Result (&all)[std::size(kFormats)], const Ceilings& ceilings) {
  std::printf("N=%lld K=%lld\n%-24s", static_cast<long long>(s.n), static_cast<long long>(s.k), "");
  for (int64_t m : kRows) std::printf(m == 1 ? "  M=%lld: us, GB/s, of read " : "   M=%-4lld", static_cast<long long>(m));
  std::printf("  (times faster than bfloat16)\n");
  for (size_t f = 0; f < std::size(kFormats); ++f) {
    const double gbps = all[f].bytes / all[f].seconds[0] * 1e-9;
    std::printf("%-24s  %8.1f %6.1f %5.1f%%", kFormats[f].name, all[f].seconds[0] * 1e6, gbps, gbps / ceilings.readGbps * 100);
    for (size_t i = 1; i < std::size(kRows); ++i)
      if (kFormats[f].bits == 16) std::printf(" %6.0fGF", 2e-9 * static_cast<double>(s.n * s.k * kRows[i]) / all[f].seconds[i]);
      else std::printf("  %6.2fx", all[0].seconds[i] / all[f].seconds[i]);
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, rounds = argc > 3 ? std::atoi(argv[3]) : 5;
  if (argc > 2) cpu::setIsa(static_cast<cpu::Isa>(std::atoi(argv[2])));
  const char* name = argc > 4 ? argv[4] : "bfloat16";
  const DType dtype = !std::strcmp(name, "float32") ? DType::Float32 : !std::strcmp(name, "float16") ? DType::Float16 : DType::BFloat16;
  cpu::Pool pool(threads);
  const Memory memory(256 << 20), in(512 * 8192 * 4), result(512 * 8192 * 4);
  fill(memory), fill(in);
  for (auto& shape : results)
    for (Result& r : shape) std::fill(std::begin(r.seconds), std::end(r.seconds), 1e30);
  Ceilings ceilings;
  for (int round = 0; round < rounds; ++round)
    for (size_t s = 0; s < std::size(kShapes); ++s) {
      measureCeilings(pool, DType::BFloat16, memory, ceilings);
      for (size_t f = 0; f < std::size(kFormats); ++f) benchFormat(pool, dtype, kShapes[s], kFormats[f], memory, in, result, results[s][f]);
    }
  std::printf("%d threads, %s, x %s: ceilings of bfloat16 %.1f GFLOP/s one core, %.1f pool, read %.1f GB/s\n", threads, cpu::isaName(cpu::isa()),
              dtypeName(dtype), ceilings.coreGflops, ceilings.poolGflops, ceilings.readGbps);
  for (size_t s = 0; s < std::size(kShapes); ++s) report(kShapes[s], results[s], ceilings);
}
