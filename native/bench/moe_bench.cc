// Speed of a mixture of experts on the CPU beside that of one linear layer after the other. Not part of the addon. From native/,
// with the object files of gemm_bench.cc in /tmp:
//   for f in moe moe_linear; do g++ -std=c++20 -O3 -DKVASIR_X86 -I. -c cpu/$f.cc -o /tmp/$f.o; done
//   (cd /tmp && g++ -std=c++20 -O3 -DKVASIR_X86 -I"$OLDPWD" "$OLDPWD"/bench/moe_bench.cc isa.o parallel.o gemm*.o moe*.o -o moe_bench -pthread)
//   /tmp/moe_bench [threads=2]
// bfloat16. The weights of all experts exceed the caches, and every call routes to other experts, as the layers of a model do.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/moe.h"

using namespace kvasir;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

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

Tensor tensor(void* data, DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t;
  t.data = data, t.dtype = dtype, t.rank = static_cast<int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), t.dims);
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; stride *= t.dims[i--]) t.strides[i] = stride;
  return t;
}

template <class F>
double seconds(F&& run) {
  const double start = now();
  run();
  return now() - start;
}

struct Shape {
  const char* name;
  int64_t experts, topK, n, k;
};

void bench(cpu::Pool& pool, const Memory& memory, const Shape& s, int64_t tokens) {
  const int64_t pairs = tokens * s.topK, rows = 16, numBlocks = (pairs + std::min(s.experts, pairs) * (rows - 1)) / rows;
  std::vector<char> in(static_cast<size_t>(pairs * s.k * 2), 0), out(static_cast<size_t>(pairs * s.n * 2));
  std::vector<int32_t> ids(static_cast<size_t>(pairs)), table(static_cast<size_t>(numBlocks * (1 + rows)));
  Tensor weights = tensor(memory.data, DType::BFloat16, {s.experts, s.n, s.k});
  weights.layout = Layout::Packed;  // the speed does not depend on which numbers there are
  const Tensor experts = tensor(ids.data(), DType::Int32, {tokens, s.topK}), blocks = tensor(table.data(), DType::Int32, {numBlocks, 1 + rows});
  double grouped = 1e30, separate = 1e30;
  int64_t active = 0;
  for (int64_t round = 0; round < 40; ++round) {
    std::vector<int64_t> counts(static_cast<size_t>(s.experts));
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t expert = (round * pairs + p * 5 + p / s.topK) % s.experts;
      ids[static_cast<size_t>(p)] = static_cast<int32_t>(expert);
      ++counts[static_cast<size_t>(expert)];
    }
    active = s.experts - std::count(counts.begin(), counts.end(), 0);
    cpu::moeAlign(pool, blocks, experts, s.experts);
    grouped = std::min(grouped, seconds([&] {
      cpu::moeLinear(pool, tensor(out.data(), DType::BFloat16, {pairs, s.n}), tensor(in.data(), DType::BFloat16, {tokens, s.k}), weights, blocks);
    }));
    // Another part of the memory: these weights must not be in the caches.
    std::rotate(counts.begin(), counts.begin() + s.experts / 2, counts.end());
    separate = std::min(separate, seconds([&] {
      for (int64_t e = 0; e < s.experts; ++e) {
        const int64_t count = counts[static_cast<size_t>(e)];
        if (count == 0) continue;
        Tensor weight = tensor(memory.data + e * s.n * s.k * 2, DType::BFloat16, {s.n, s.k});
        weight.layout = Layout::Packed;
        cpu::linear(pool, tensor(out.data(), DType::BFloat16, {count, s.n}), tensor(in.data(), DType::BFloat16, {count, s.k}), weight, std::nullopt);
      }
    }));
  }
  const double gbps = static_cast<double>(active * s.n * s.k * 2) / grouped * 1e-9;
  std::printf("%-26s %4lld tokens, %3lld experts used: %9.1f us  %6.1f GB/s  %6.1f GFLOP/s, %4.2fx the speed of linear() per expert\n", s.name,
              static_cast<long long>(tokens), static_cast<long long>(active), grouped * 1e6, gbps,
              2.0 * static_cast<double>(pairs * s.n * s.k) / grouped * 1e-9, separate / grouped);
}

}  // namespace

int main(int argc, char** argv) {
  cpu::Pool pool(argc > 1 ? std::atoi(argv[1]) : 2);
  const Memory memory(int64_t{1} << 29);
  for (int64_t i = 0; i < memory.bytes / 2; ++i) reinterpret_cast<uint16_t*>(memory.data)[i] = static_cast<uint16_t>(0x3c00 + i * 7 % 256);
  // Fewer experts than the models have, to fit the memory.
  const Shape shapes[] = {{"Qwen3-30B-A3B gate and up", 64, 8, 1536, 2048}, {"Qwen3-30B-A3B down", 128, 8, 2048, 768}, {"Mixtral-8x7B down", 4, 2, 4096, 14336}};
  for (const Shape& s : shapes)
    for (const int64_t tokens : {1, 2, 4, 16, 64, 256}) bench(pool, memory, s, tokens);
}
