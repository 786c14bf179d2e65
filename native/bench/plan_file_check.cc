// Drives the file of GEMM plans for test/native/plan-file.test.ts; needs neither CUDA nor Node. It is not part of the addon.
//   c++ -std=c++20 -I native native/bench/plan_file_check.cc native/cuda/gemm/plan_file.cc -o /tmp/plan_file_check
//   plan_file_check FOLDER LIBRARY add FIRST LAST   adds the plans of FIRST to LAST rows, one after the other
//   plan_file_check FOLDER LIBRARY read LAST        looks for those of 1 to LAST rows
//   plan_file_check damage                          cuts and changes a text at every byte
// One JSON object on standard output. A plan's contents follow from its number of rows, so that wrong ones are noticed.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/gemm/plan_file.h"

using namespace kvasir::cuda;

namespace {

PlanEnvironment environment(size_t library) { return {"NVIDIA H100 80GB HBM3; \"x\"\n", "9.0", 132, library}; }

PlanKey keyOf(int64_t rows) { return {rows, 128256, int64_t{1} << 40, 4096, -1, 14336, 58}; }

StoredPlan planOf(int64_t rows) {
  StoredPlan plan{{}, static_cast<int>(rows % 8), 8, static_cast<float>(rows) / 3};
  for (size_t i = 0; i < plan.algorithm.size(); ++i) plan.algorithm[i] = (static_cast<uint64_t>(rows) * 0x9e3779b97f4a7c15ull) << (i * 7) | i;
  plan.algorithm[7] = ~0ull;
  return plan;
}

void printText(const char* name, const std::string& text) {
  std::printf("\"%s\":\"", name);
  for (const char c : text) {
    if (c == '"' || c == '\\') std::printf("\\%c", c);
    else if (static_cast<unsigned char>(c) < ' ') std::printf("\\u%04x", c);
    else std::putchar(c);
  }
  std::printf("\"");
}

int onFile(const char* folder, size_t library, const char* command, int64_t first, int64_t last) {
  PlanFile file(folder, environment(library));
  const size_t atStart = file.size();
  int found = 0, wrong = 0;
  for (int64_t rows = first; rows <= last; ++rows) {
    if (std::strcmp(command, "add") == 0) file.add(keyOf(rows), planOf(rows));
    const StoredPlan* plan = file.find(keyOf(rows));
    if (plan) ++found;
    if (plan && !(*plan == planOf(rows))) ++wrong;
  }
  std::printf("{\"atStart\":%zu,\"size\":%zu,\"found\":%d,\"wrong\":%d,", atStart, file.size(), found, wrong);
  printText("path", file.path());
  std::printf(",");
  printText("problem", file.problem());
  std::printf("}\n");
  return 0;
}

// Every plan that is read from a damaged text must be one of those written.
int damage() {
  const PlanEnvironment e = environment(130100);
  StoredPlans plans;
  for (int64_t rows = 1; rows <= 5; ++rows) plans[keyOf(rows)] = planOf(rows);
  const std::string text = serializePlans(e, plans);
  int texts = 0, refused = 0, invented = 0, kept = 0;
  const auto look = [&](const std::string& damaged) {
    ++texts;
    const std::optional<StoredPlans> read = parsePlans(damaged, e);
    if (!read) {
      ++refused;
      return;
    }
    for (const auto& [key, plan] : *read) {
      const auto known = plans.find(key);
      if (known != plans.end() && known->second == plan) ++kept;
      else ++invented;
    }
  };
  for (size_t i = 0; i <= text.size(); ++i) look(text.substr(0, i));
  for (size_t i = 0; i < text.size(); ++i)
    for (const int change : {1, 2, 16, 128}) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      look(damaged);
    }
  std::printf("{\"same\":%s,\"texts\":%d,\"refused\":%d,\"kept\":%d,\"invented\":%d}\n", parsePlans(text, e) == plans ? "true" : "false", texts, refused, kept,
              invented);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "damage") == 0) return damage();
  if (argc < 5) return 2;
  const bool add = std::strcmp(argv[3], "add") == 0;
  if (add && argc < 6) return 2;
  return onFile(argv[1], std::strtoull(argv[2], nullptr, 10), argv[3], add ? std::atoll(argv[4]) : 1, std::atoll(argv[add ? 5 : 4]));
}
