// Decode bandwidth and prefill throughput of paged attention against what the machine gives a plain read and vdpbf16ps alone, in
// one run and with the same threads. From native/:
//   F="-std=c++20 -O3 -fno-math-errno -fno-trapping-math -I. -DKVASIR_X86" A="-mavx2 -mfma -mf16c"
//   B="$A -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512" C="$B -mavx512bf16 -mavx512vnni" O=/tmp/attention_bench
//   mkdir -p $O; for s in "avx2 $A" "fp8_avx2 $A" "avx512 $B" "fp8_avx512 $B" "avx512bf16 $C"; do
//     g++ $F ${s#* } -c cpu/attention_${s%% *}.cc -o $O/${s%% *}.o; done
//   g++ $F $C bench/attention_bench.cc cpu/{attention,attention_fp8,attention_plan,attention_portable,cache,isa,parallel}.cc core/error.cc $O/*.o -o $O/bench
//   $O/bench [threads]
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/attention.h"
#include "cpu/isa.h"

using namespace kvasir;

namespace {

struct Memory {
  char* data;
  int64_t bytes;
  explicit Memory(int64_t n) : bytes((n + (2 << 20) - 1) >> 21 << 21) {
    data = static_cast<char*>(mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (data == MAP_FAILED) std::abort();
    madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  }
  ~Memory() { munmap(data, static_cast<size_t>(bytes)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

Tensor tensor(const Memory& m, DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t;
  t.data = m.data;
  t.dtype = dtype;
  for (int64_t d : dims) t.dims[t.rank++] = d;
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) t.strides[i] = stride, stride *= t.dims[i];
  return t;
}

void fill(const Tensor& t, uint32_t seed) {
  uint32_t x = seed;
  for (int64_t i = 0; i < t.numel(); ++i) {
    x = x * 1664525u + 1013904223u;
    const float value = static_cast<float>(x >> 8) / 8388608.0f - 1.0f;
    if (t.dtype == DType::Float32) t.ptr<float>()[i] = value;
    else if (t.dtype == DType::BFloat16) t.ptr<bf16>()[i] = fromFloat<bf16>(value);
    else if (t.dtype == DType::Float8E4M3) t.ptr<uint8_t>()[i] = static_cast<uint8_t>(x >> 24 & 0xbf);  // below 2
    else t.ptr<f16>()[i] = fromFloat<f16>(value);
  }
}

template <class F>
double bestSeconds(int repeats, F&& f) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double readBandwidth(cpu::Pool& pool, const Memory& m) {
  __m512i sink[64] = {};
  // 16 MB at a time: short enough to find moments at which nobody else wants the cores
  constexpr int64_t kPart = 16 << 20;
  int64_t part = 0;
  const double s = bestSeconds(200, [&] {
    part = (part + kPart) % m.bytes;
    pool.run(kPart >> 18, [&](int64_t c, int thread) {  // 256 KB a chunk
      const char* p = m.data + part + (c << 18);
      __m512i a = sink[thread], b = a, d = a, e = a;
      for (int64_t i = 0; i < 1 << 18; i += 256) {
        a = _mm512_xor_si512(a, _mm512_load_si512(p + i));
        b = _mm512_xor_si512(b, _mm512_load_si512(p + i + 64));
        d = _mm512_xor_si512(d, _mm512_load_si512(p + i + 128));
        e = _mm512_xor_si512(e, _mm512_load_si512(p + i + 192));
      }
      sink[thread] = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(d, e));
    });
  });
  volatile long long keep = _mm512_reduce_or_epi64(sink[0]);
  (void)keep;
  return static_cast<double>(kPart) / s;
}

// The same, page by page in shuffled order with the next pages prefetched: what any kernel can get that reads paged memory.
double pageBandwidth(cpu::Pool& pool, const Memory& m, int64_t pageBytes) {
  constexpr int64_t kPart = 16 << 20;
  std::vector<int32_t> order(static_cast<size_t>(m.bytes / pageBytes));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(4));
  const int64_t perChunk = (1 << 18) / pageBytes, ahead = std::max<int64_t>(1, 8192 / pageBytes);
  int64_t part = 0;
  __m512i sink[64] = {};
  const double s = bestSeconds(200, [&] {
    part = (part + kPart) % (m.bytes - kPart);
    pool.run(kPart >> 18, [&](int64_t c, int thread) {
      const int32_t* pages = order.data() + part / pageBytes + c * perChunk;
      for (int64_t i = 0; i < perChunk; ++i) {
        const char *p = m.data + pages[i] * pageBytes, *next = m.data + pages[std::min(i + ahead, perChunk - 1)] * pageBytes;
        for (int64_t at = 0; at < pageBytes; at += 64) {
          __builtin_prefetch(next + at, 0, 1);
          sink[thread] = _mm512_xor_si512(sink[thread], _mm512_load_si512(p + at));
        }
      }
    });
  });
  volatile long long keep = _mm512_reduce_or_epi64(sink[0]);
  (void)keep;
  return static_cast<double>(kPart) / s;
}

double dotPeak(cpu::Pool& pool) {
  constexpr int64_t kSteps = 2000000;
  float keep[64] = {};
  const double s = bestSeconds(5, [&] {
    pool.run(pool.size(), [&](int64_t, int thread) {
      __m512 acc[16];
      for (int j = 0; j < 16; ++j) acc[j] = _mm512_set1_ps(static_cast<float>(j));  // distinct, or the compiler keeps one
      __m512i x = _mm512_set1_epi32(0x3f803f80);
      for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], (__m512bh)x, (__m512bh)x);
        asm volatile("" : "+v"(x));
      }
      for (auto& a : acc) keep[thread] += _mm512_reduce_add_ps(a);
    });
  });
  volatile float all = keep[0];
  (void)all;
  return static_cast<double>(pool.size()) * kSteps * 16 * 64 / s;
}

// dtype is the cache's; queries of a float8_e4m3 cache are bfloat16. numSeqs sequences of queryLen new tokens and seqLen in all, pages shuffled. Calls alternate between `sets` sets of sequences, so that
// together they do not fit into the last-level cache.
double attentionSeconds(cpu::Pool& pool, DType dtype, int64_t sets, int64_t numSeqs, int64_t queryLen, int64_t seqLen, int64_t heads, int64_t kvHeads, int64_t d) {
  const int64_t pages = (seqLen + 15) / 16, blocks = pages * numSeqs * sets, tokens = numSeqs * queryLen, bytes = elementSize(dtype);
  const DType qType = dtype == DType::Float8E4M3 ? DType::BFloat16 : dtype;
  const Memory cacheMemory(blocks * 2 * kvHeads * 16 * d * bytes), qMemory(tokens * heads * d * elementSize(qType)), outMemory(tokens * heads * d * elementSize(qType));
  const Memory tableMemory(blocks * 4), rowMemory(numSeqs * 4), lenMemory(numSeqs * 4), startMemory(numSeqs * 4 + 4);
  const Tensor cache = tensor(cacheMemory, dtype, {blocks, 2, kvHeads, 16, d}), q = tensor(qMemory, qType, {tokens, heads, d});
  const Tensor out = tensor(outMemory, qType, {tokens, heads, d}), table = tensor(tableMemory, DType::Int32, {numSeqs * sets, pages});
  const Tensor rows = tensor(rowMemory, DType::Int32, {numSeqs}), lens = tensor(lenMemory, DType::Int32, {numSeqs});
  const Tensor starts = tensor(startMemory, DType::Int32, {numSeqs + 1});
  fill(cache, 1), fill(q, 2);
  std::iota(table.ptr<int32_t>(), table.ptr<int32_t>() + blocks, 0);
  std::shuffle(table.ptr<int32_t>(), table.ptr<int32_t>() + blocks, std::mt19937(3));
  for (int32_t i = 0; i <= numSeqs; ++i) {
    starts.ptr<int32_t>()[i] = i * static_cast<int32_t>(queryLen);
    if (i < numSeqs) rows.ptr<int32_t>()[i] = i, lens.ptr<int32_t>()[i] = static_cast<int32_t>(seqLen);
  }
  int32_t set = 0;
  return bestSeconds(sets > 1 ? 200 : 9, [&] {
    set = (set + 1) % static_cast<int32_t>(sets);
    for (int32_t i = 0; i < numSeqs; ++i) rows.ptr<int32_t>()[i] = set * static_cast<int32_t>(numSeqs) + i;
    cpu::pagedAttention(pool, out, q, cache, table, rows, lens, starts, 0.1, 0, 0.0, {}, {}, 1.0, 1.0);
  });
}

void decode(cpu::Pool& pool, const Memory& plain, DType dtype, int64_t numSeqs, int64_t seqLen, int64_t heads, int64_t kvHeads, int64_t d) {
  const int64_t sets = std::max<int64_t>(2, (int64_t{256} << 20) / (numSeqs * seqLen * 2 * kvHeads * d * elementSize(dtype)));
  const double read = readBandwidth(pool, plain), paged = pageBandwidth(pool, plain, 16 * d * elementSize(dtype));
  const double s = attentionSeconds(pool, dtype, sets, numSeqs, 1, seqLen, heads, kvHeads, d);
  const double bytes = static_cast<double>(numSeqs * seqLen * 2 * kvHeads * d * elementSize(dtype));
  std::printf("%-10s decode  %-8s B=%-3lld ctx=%-5lld heads=%lld/%lld D=%-3lld %9.1f us %6.1f GB/s = %3.0f%% of %5.1f plain, %3.0f%% of %5.1f paged\n", isaName(cpu::isa()),
              dtypeName(dtype), static_cast<long long>(numSeqs), static_cast<long long>(seqLen), static_cast<long long>(heads),
              static_cast<long long>(kvHeads), static_cast<long long>(d), s * 1e6, bytes / s / 1e9, 100 * bytes / s / read, read / 1e9, 100 * bytes / s / paged, paged / 1e9);
}

void prefill(cpu::Pool& pool, DType dtype, int64_t queryLen, int64_t seqLen, int64_t heads, int64_t kvHeads, int64_t d) {
  const double peak = dotPeak(pool), s = attentionSeconds(pool, dtype, 1, 1, queryLen, seqLen, heads, kvHeads, d);
  const double pairs = static_cast<double>(queryLen) * static_cast<double>(seqLen) - 0.5 * static_cast<double>(queryLen) * static_cast<double>(queryLen - 1);
  const double flops = 4 * pairs * static_cast<double>(heads * d);
  std::printf("%-10s prefill %-8s q=%-4lld kv=%-5lld heads=%lld/%lld D=%-3lld %9.1f us %6.1f GFLOP/s of %5.1f = %3.0f%%\n", isaName(cpu::isa()),
              dtypeName(dtype), static_cast<long long>(queryLen), static_cast<long long>(seqLen), static_cast<long long>(heads),
              static_cast<long long>(kvHeads), static_cast<long long>(d), s * 1e6, flops / s / 1e9, peak / 1e9, 100 * flops / s / peak);
}

}  // namespace

int main(int argc, char** argv) {
  cpu::Pool pool(argc > 1 ? std::atoi(argv[1]) : 2);
  const Memory plain(int64_t{256} << 20);
  for (int64_t i = 0; i < plain.bytes; i += 4096) plain.data[i] = 1;
  for (DType dtype : {DType::BFloat16, DType::Float8E4M3, DType::Float32, DType::Float16})
    for (int64_t d : {64, 128}) {
      decode(pool, plain, dtype, 8, 1024, 32, 8, d);
      decode(pool, plain, dtype, 1, 8192, 32, 8, d);
    }
  decode(pool, plain, DType::BFloat16, 32, 256, 32, 8, 64);
  decode(pool, plain, DType::BFloat16, 4, 1024, 32, 32, 64);
  for (DType dtype : {DType::BFloat16, DType::Float8E4M3, DType::Float32, DType::Float16})
    for (int64_t n : {512, 2048}) prefill(pool, dtype, n, n, 32, 8, 64);
  prefill(pool, DType::BFloat16, 512, 4096, 32, 8, 64);
  prefill(pool, DType::BFloat16, 2048, 2048, 32, 8, 128);
  if (argc > 2) return 0;
  for (cpu::Isa level : {cpu::Isa::Avx512, cpu::Isa::Avx2, cpu::Isa::Portable}) {
    cpu::setIsa(level);
    for (DType dtype : {DType::BFloat16, DType::Float8E4M3, DType::Float32}) {
      prefill(pool, dtype, 512, 512, 32, 8, 64);
      decode(pool, plain, dtype, 8, 1024, 32, 8, 64);
    }
  }
  return 0;
}
