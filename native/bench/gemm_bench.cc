// Speed of cpu::linear beside the ceilings of the machine, measured in the same run. Not part of the addon. From native/:
//   for f in isa parallel gemm gemm_pack gemm_portable; do g++ -std=c++20 -O3 -DKVASIR_X86 -I. -c cpu/$f.cc -o /tmp/$f.o; done
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. -mavx2 -mfma -mf16c -c cpu/gemm_avx2.cc -o /tmp/gemm_avx2.o
//   A="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c"
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. $A -c cpu/gemm_avx512.cc -o /tmp/gemm_avx512.o
//   g++ -std=c++20 -O3 -DKVASIR_X86 -I. $A -mavx512bf16 -mavx512vnni -c cpu/gemm_avx512bf16.cc -o /tmp/gemm_avx512bf16.o
//   (cd /tmp && g++ -std=c++20 -O3 -DKVASIR_X86 -I"$OLDPWD" "$OLDPWD"/bench/gemm_bench.cc isa.o parallel.o gemm*.o -o gemm_bench -pthread)
//   /tmp/gemm_bench [threads=2] [dtype=bfloat16] [isa=3]
// Weights rotate over copies that exceed the caches, as the layers of a model do. Everything, ceilings too, is measured in rounds spread
// over the run and the best is kept, so that other work on the machine disturbs the ratios little.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "cpu/gemm.h"
#include "cpu/isa.h"

#ifdef KVASIR_X86
#include <immintrin.h>
#endif
#include <sys/mman.h>

using namespace kvasir;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The shortest of the runs that fit in `seconds`, at least three.
template <class F>
double best(double seconds, F&& run) {
  double shortest = 1e30;
  const double end = now() + seconds;
  for (int i = 0; i < 3 || now() < end; ++i) {
    const double start = now();
    run();
    shortest = std::min(shortest, now() - start);
  }
  return shortest;
}

struct Memory {
  explicit Memory(int64_t size) : bytes(size) {
    data = static_cast<char*>(mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (data == MAP_FAILED) std::abort();
    madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  }
  ~Memory() { munmap(data, static_cast<size_t>(bytes)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  int64_t bytes;
  char* data;
};

// ---- ceilings ---------------------------------------------------------------------------------------------------------------------

constexpr int64_t kPeakSteps = 200000;
#ifdef KVASIR_X86
#define KVASIR_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

__attribute__((target("avx512f,avx512bw,avx512bf16"))) float peakBf16() {
  const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3c003c00), b = (__m512bh)_mm512_set1_epi32(0x3c013c01);
#define KVASIR_DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define KVASIR_STEP(i) s##i = _mm512_dpbf16_ps(s##i, a, b); asm volatile("" : "+v"(s##i));
#define KVASIR_SUM(i) s0 = _mm512_add_ps(s0, s##i);
  KVASIR_CHAINS(KVASIR_DECLARE)
  for (int64_t n = 0; n < kPeakSteps; ++n) { KVASIR_CHAINS(KVASIR_STEP) }
  KVASIR_CHAINS(KVASIR_SUM)
  return _mm512_cvtss_f32(s0);
#undef KVASIR_STEP
}

__attribute__((target("avx512f"))) float peakFma512() {
  const __m512 a = _mm512_set1_ps(0.5f);
#define KVASIR_STEP(i) s##i = _mm512_fmadd_ps(s##i, a, a); asm volatile("" : "+v"(s##i));
  KVASIR_CHAINS(KVASIR_DECLARE)
  for (int64_t n = 0; n < kPeakSteps; ++n) { KVASIR_CHAINS(KVASIR_STEP) }
  KVASIR_CHAINS(KVASIR_SUM)
  return _mm512_cvtss_f32(s0);
#undef KVASIR_STEP
#undef KVASIR_DECLARE
#undef KVASIR_SUM
}

__attribute__((target("avx2,fma"))) float peakFma256() {
  const __m256 a = _mm256_set1_ps(0.5f);
#define KVASIR_DECLARE(i) __m256 s##i = _mm256_setzero_ps();
#define KVASIR_STEP(i) s##i = _mm256_fmadd_ps(s##i, a, a); asm volatile("" : "+x"(s##i));
#define KVASIR_SUM(i) s0 = _mm256_add_ps(s0, s##i);
  KVASIR_CHAINS(KVASIR_DECLARE)
  for (int64_t n = 0; n < kPeakSteps; ++n) { KVASIR_CHAINS(KVASIR_STEP) }
  KVASIR_CHAINS(KVASIR_SUM)
  return _mm256_cvtss_f32(s0);
}

__attribute__((target("avx2"))) int64_t readAll(const char* p, int64_t bytes) {
  __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i < bytes; i += 128) {
    _mm_prefetch(p + i + 4096, _MM_HINT_T0);
    _mm_prefetch(p + i + 4160, _MM_HINT_T0);
    const __m256i* v = reinterpret_cast<const __m256i*>(p + i);
    s0 = _mm256_xor_si256(s0, _mm256_load_si256(v));
    s1 = _mm256_xor_si256(s1, _mm256_load_si256(v + 1));
    s2 = _mm256_xor_si256(s2, _mm256_load_si256(v + 2));
    s3 = _mm256_xor_si256(s3, _mm256_load_si256(v + 3));
  }
  return _mm256_extract_epi64(_mm256_xor_si256(_mm256_xor_si256(s0, s1), _mm256_xor_si256(s2, s3)), 0);
}
#else
int64_t readAll(const char* p, int64_t bytes) {
  int64_t sum = 0;
  for (int64_t i = 0; i < bytes; i += 8) sum ^= *reinterpret_cast<const int64_t*>(p + i);
  return sum;
}
#endif

volatile double sink;

struct Ceilings {
  double coreGflops = 0, poolGflops = 0, readGbps = 0;
};

// Measures again and keeps the best. The pool's peak counts as at least its cores' peak when one is busy elsewhere.
void measureCeilings(cpu::Pool& pool, DType dtype, const Memory& memory, Ceilings& c) {
  float (*loop)() = nullptr;
  double flops = 0;
#ifdef KVASIR_X86
  const cpu::Isa level = cpu::isa();
  if (level >= cpu::Isa::Avx512Bf16 && dtype == DType::BFloat16) loop = peakBf16, flops = kPeakSteps * 12 * 64.0;
  else if (level >= cpu::Isa::Avx512) loop = peakFma512, flops = kPeakSteps * 12 * 32.0;
  else if (level >= cpu::Isa::Avx2) loop = peakFma256, flops = kPeakSteps * 12 * 16.0;
#endif
  if (loop) {
    const double one = best(0.05, [&] { sink = loop(); });
    const double all = best(0.05, [&] { pool.run(pool.size(), [&](int64_t, int) { sink = loop(); }); }) / pool.size();
    c.coreGflops = std::max(c.coreGflops, flops / one * 1e-9);
    c.poolGflops = std::max({c.poolGflops, flops / all * 1e-9, c.coreGflops * pool.size()});
  }
  // 64 MB at a time, more than the caches: short enough to find a quiet moment.
  const int64_t part = 64 << 20, chunks = 64, each = part / chunks;
  int64_t at = 0;
  const double t = best(0.2, [&] {
    const char* from = memory.data + at++ % (memory.bytes / part) * part;
    pool.run(chunks, [&](int64_t i, int) { sink = static_cast<double>(readAll(from + i * each, each)); });
  });
  c.readGbps = std::max(c.readGbps, static_cast<double>(part) / t * 1e-9);
}

// ---- linear -----------------------------------------------------------------------------------------------------------------------

Tensor matrix(char* data, DType dtype, int64_t rows, int64_t columns) {
  Tensor t;
  t.data = data, t.dtype = dtype, t.rank = 2;
  t.dims[0] = rows, t.dims[1] = columns, t.strides[0] = columns, t.strides[1] = 1;
  return t;
}

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
