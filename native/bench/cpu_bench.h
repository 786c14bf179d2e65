// What the benchmarks of the CPU kernels share: timing, memory and the ceilings of the machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "core/tensor.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

#ifdef KVASIR_X86
#include <immintrin.h>
#endif
#include <sys/mman.h>

namespace kvasir::bench {

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


// ---- tensors ----------------------------------------------------------------------------------------------------------------------

Tensor matrix(char* data, DType dtype, int64_t rows, int64_t columns) {
  Tensor t;
  t.data = data, t.dtype = dtype, t.rank = 2;
  t.dims[0] = rows, t.dims[1] = columns, t.strides[0] = columns, t.strides[1] = 1;
  return t;
}

}  // namespace

}  // namespace kvasir::bench
