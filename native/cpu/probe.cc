#include "cpu/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu/isa.h"
#include "cpu/probe_kernels.h"

namespace kvasir::cpu {

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

uint64_t sumPortable(const char* data, int64_t bytes) {
  uint64_t s[8] = {};
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  for (int64_t i = 0; i + 8 <= bytes / 8; i += 8)
    for (int j = 0; j < 8; ++j) s[j] += words[i + j];
  return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

float peakPortable(int64_t steps, int64_t* operations) {
  float s[16] = {};
  for (int64_t n = 0; n < steps; ++n)
    for (int j = 0; j < 16; ++j) s[j] = s[j] * 0.5f + 0.5f;
  *operations = steps * 32;
  float total = 0;
  for (float x : s) total += x;
  return total;
}

}  // namespace

double probeReadBandwidth(Pool& pool, const char* data, int64_t bytes) {
  uint64_t (*sum)(const char*, int64_t) = sumPortable;
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) sum = avx512::probeSum;
#endif
  constexpr int64_t kPiece = 1 << 20, kRounds = 6;
  std::atomic<uint64_t> sink{0};
  const auto pass = [&] { pool.run(bytes / kPiece, [&](int64_t chunk, int) { sink += sum(data + chunk * kPiece, kPiece); }); };
  pass();  // first touch of the pages by these threads
  const double start = seconds();
  for (int64_t i = 0; i < kRounds; ++i) pass();
  return static_cast<double>(bytes / kPiece * kPiece * kRounds) / (seconds() - start);
}

double probePeakFlops(Pool& pool) {
  float (*peak)(int64_t, int64_t*) = peakPortable;
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) peak = avx512::probePeak;
  if (isa() >= Isa::Avx512Bf16) peak = avx512bf16::probePeak;
#endif
  constexpr int64_t kSteps = 100000;
  double best = 0;
  for (int i = 0; i < 60; ++i) {
    std::atomic<int64_t> total{0};
    std::atomic<int> sink{0};
    const double start = seconds();
    pool.run(pool.size(), [&](int64_t, int) {
      int64_t operations = 0;
      if (peak(kSteps, &operations) == 1e30f) sink += 1;  // keeps the loop
      total += operations;
    });
    best = std::max(best, static_cast<double>(total.load()) / (seconds() - start));
  }
  return best;
}

}  // namespace kvasir::cpu
