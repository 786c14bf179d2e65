// Checks and times collectives among CUDA streams. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/comm_cuda_bench [check] [time] [--gpus N]
// By default: two ranks that share the current GPU, then NCCL with one rank if it is found. --gpus N: NCCL with N processes, one GPU each.
// One JSON line for each size: microseconds of an all-reduce of bfloat16, queued one by one and in a graph.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "comm_cuda_group.cuh"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

struct Options {
  bool check = false, time = false;
  int gpus = 0;
};

double seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// By turns, so that no rank queues more than the driver takes while it waits for the other.
void timeSize(const Group& group, int64_t bytes) {
  constexpr int kCalls = 50, kRounds = 20;
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<int> graphs;
  group.each([&](const Rank& r) { buffers.push_back(std::make_unique<Buffer>(*r.stream, bytes)); });
  const auto reduce = [&](size_t i) {
    const Rank& r = group.ranks[i];
    r.comm->allReduce(*r.stream, vectorOf(buffers[i]->data(), DType::BFloat16, bytes / 2));
  };
  const auto all = [&](const std::function<void(size_t)>& body) {
    for (size_t i = 0; i < group.ranks.size(); ++i) body(i);
  };
  all(reduce);
  group.settle();
  all([&](size_t i) {
    CudaStream& stream = *group.ranks[i].stream;
    stream.beginCapture();
    for (int k = 0; k < kCalls; ++k) reduce(i);
    graphs.push_back(stream.endCapture());
  });
  const auto replay = [&](size_t i) { group.ranks[i].stream->launchGraph(graphs[i]); };
  all(replay);
  group.settle();
  const double eager = seconds([&] {
    for (int k = 0; k < kCalls * 4; ++k) all(reduce);
    group.settle();
  });
  const double graph = seconds([&] {
    for (int k = 0; k < kRounds; ++k) all(replay);
    group.settle();
  });
  all([&](size_t i) { group.ranks[i].stream->destroyGraph(graphs[i]); });
  if (!group.speaks()) return;
  std::printf("{\"benchmark\":\"comm\",\"backend\":\"%s\",\"ranks\":%d,\"op\":\"allReduce\",\"dtype\":\"bfloat16\",\"bytes\":%lld,\"eagerMicroseconds\":%.2f,\"graphMicroseconds\":%.2f}\n",
              group.backend.c_str(), group.size, static_cast<long long>(bytes), eager * 1e6 / (kCalls * 4), graph * 1e6 / (kCalls * kRounds));
  std::fflush(stdout);
}

int runGroup(const Group& group, const Options& options) {
  int failed = 0;
  if (options.check) {
    failed += checkCollectives(group);
    failed += checkGraphs(group);
    if (group.speaks()) std::printf("%s, %d ranks: collectives %s\n", group.backend.c_str(), group.size, failed ? "FAILED" : "ok");
    std::fflush(stdout);
  }
  if (options.time && group.size > 1)
    for (const int64_t kib : {8, 64, 256, 1024, 4096, 16384}) timeSize(group, kib << 10);
  if (options.check && group.backend == "nccl") {
    const int lost = checkAbort(group);
    if (group.speaks()) std::printf("%s, %d ranks: abort %s\n", group.backend.c_str(), group.size, lost ? "FAILED" : "ok");
    failed += lost;
  }
  std::fflush(stdout);
  return failed;
}

int onOneGpu(const Options& options) {
  int failed = runGroup(localGroup(2, kLocalTimeoutMs), options);
  if (options.check) {
    failed += runGroup(localGroup(3, kLocalTimeoutMs), {true, false});
    const int lost = checkFailures();
    std::printf("local: failures %s\n", lost ? "FAILED" : "ok");
    failed += lost;
  }
  const NcclReport nccl = findNccl();
  std::printf("%s%s", nccl.report.c_str(), nccl.report.ends_with('\n') ? "" : "\n");
  if (nccl.found) failed += runGroup(ncclGroup(0, 1, [](auto address) { return address; }), options);
  return failed;
}

// One process of `size`. The address goes from rank 0 to the others through pipes that were made before any of them started.
int asRank(int rank, int size, const std::vector<int>& readEnds, const std::vector<int>& writeEnds, const Options& options) {
  const auto exchange = [&](Communicator::Bytes address) {
    if (rank == 0) {
      for (int r = 1; r < size; ++r)
        if (write(writeEnds[static_cast<size_t>(r)], address.data(), address.size()) != static_cast<ssize_t>(address.size())) std::exit(2);
      return address;
    }
    address.resize(128);
    if (read(readEnds[static_cast<size_t>(rank)], address.data(), address.size()) != static_cast<ssize_t>(address.size())) std::exit(2);
    return address;
  };
  return runGroup(ncclGroup(rank, size, exchange), options);
}

int onGpus(const Options& options) {
  std::vector<int> readEnds, writeEnds;
  for (int r = 0; r < options.gpus; ++r) {
    int ends[2];
    if (pipe(ends) != 0) return 2;
    readEnds.push_back(ends[0]);
    writeEnds.push_back(ends[1]);
  }
  std::vector<pid_t> children;
  for (int r = 0; r < options.gpus; ++r) {
    const pid_t child = fork();
    if (child < 0) return 2;
    if (child > 0) {
      children.push_back(child);
      continue;
    }
    // Where rank 0 ended without a word, reading ends too.
    for (const int end : writeEnds)
      if (r != 0) close(end);
    int failed = 1;
    try {
      failed = asRank(r, options.gpus, readEnds, writeEnds, options);
    } catch (const Error& e) {
      std::printf("FAILED rank %d: %s: %s\n", r, e.code(), e.what());
    }
    std::fflush(stdout);
    std::exit(failed ? 1 : 0);
  }
  for (const int end : writeEnds) close(end);
  int failed = 0;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    failed += status != 0;
  }
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "check") == 0) options.check = true;
    if (std::strcmp(argv[i], "time") == 0) options.time = true;
    if (std::strcmp(argv[i], "--gpus") == 0 && i + 1 < argc) options.gpus = std::atoi(argv[++i]);
  }
  if (!options.check && !options.time) options.check = options.time = true;
  // Before the driver starts: a kernel that is loaded late would wait for those of the other rank.
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);  // streams that share one would wait for each other
  try {
    return (options.gpus > 0 ? onGpus(options) : onOneGpu(options)) ? 1 : 0;
  } catch (const Error& e) {
    std::printf("FAILED %s: %s\n", e.code(), e.what());
    return 1;
  }
}
