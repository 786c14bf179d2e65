// What queueing costs the host on the current GPU: kernels, small copies between pinned memory and the device, and graphs of different
// make. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/launch_cuda_bench
// One JSON line each: the median microseconds of one call on an idle stream, on one that is busy with the same work, and from the call on
// an idle stream until the work is done.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "cuda/check.h"
#include "cuda/dependent_launch.cuh"
#include "cuda/staging.h"

using namespace kvasir::cuda;

namespace {

constexpr int kNodes = 160, kRounds = 200;
constexpr int64_t kBytes = 7 << 10;  // the inputs of a decode step of 128 requests

__global__ void smallKernel(int* data) {
  waitForPrevious();
  letNextStart();
  data[blockIdx.x * blockDim.x + threadIdx.x] += 1;
}

double microseconds(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void report(const char* what, cudaStream_t stream, const std::function<void()>& call) {
  std::vector<double> idle, busy, whole;
  for (int i = 0; i < kRounds; ++i) {
    KVASIR_CUDA(cudaStreamSynchronize(stream));
    const double first = microseconds(call), second = microseconds(call);
    KVASIR_CUDA(cudaStreamSynchronize(stream));
    if (i < kRounds / 10) continue;  // warming up
    idle.push_back(first);
    busy.push_back(second);
    whole.push_back(microseconds([&] {
      call();
      KVASIR_CUDA(cudaStreamSynchronize(stream));
    }));
  }
  std::printf("{\"benchmark\":\"launch\",\"what\":\"%s\",\"idle\":%.1f,\"busy\":%.1f,\"untilDone\":%.1f}\n", what, median(idle), median(busy), median(whole));
  std::fflush(stdout);
}

enum class Extra { None, Memset, Copy, Early };

// A chain of kernels, one of them replaced by `extra`.
cudaGraphExec_t chain(cudaStream_t stream, int* data, int nodes, Extra extra) {
  KVASIR_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < nodes; ++i) {
    if (i == nodes / 2 && extra == Extra::Memset) KVASIR_CUDA(cudaMemsetAsync(data, 0, 64, stream));
    else if (i == nodes / 2 && extra == Extra::Copy) KVASIR_CUDA(cudaMemcpyAsync(data, data + 1024, 64, cudaMemcpyDeviceToDevice, stream));
    else launchChained({stream, extra == Extra::Early}, smallKernel, 8, 128, data);
  }
  cudaGraph_t graph;
  KVASIR_CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  KVASIR_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  KVASIR_CUDA(cudaGraphUpload(executable, stream));
  KVASIR_CUDA(cudaGraphDestroy(graph));
  return executable;
}

void benchGraphs(cudaStream_t stream, int* data) {
  const struct {
    const char* name;
    int nodes;
    Extra extra;
  } cases[] = {{"graph of 10 kernels", 10, Extra::None},           {"graph of 160 kernels", kNodes, Extra::None},
               {"graph of 160, a memset", kNodes, Extra::Memset}, {"graph of 160, a copy", kNodes, Extra::Copy},
               {"graph of 160, launched early", kNodes, Extra::Early}};
  for (const auto& c : cases) {
    const cudaGraphExec_t graph = chain(stream, data, c.nodes, c.extra);
    report(c.name, stream, [&] { KVASIR_CUDA(cudaGraphLaunch(graph, stream)); });
    KVASIR_CUDA(cudaGraphExecDestroy(graph));
  }
  const cudaGraphExec_t pair[] = {chain(stream, data, kNodes, Extra::None), chain(stream, data, kNodes, Extra::None)};
  int turn = 0;
  report("two graphs of 160 by turns", stream, [&] { KVASIR_CUDA(cudaGraphLaunch(pair[turn++ % 2], stream)); });
  for (const cudaGraphExec_t graph : pair) KVASIR_CUDA(cudaGraphExecDestroy(graph));
}

}  // namespace

int main() {
  cudaStream_t stream;
  cudaEvent_t event;
  int* data;
  char* pinned;
  KVASIR_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  KVASIR_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  KVASIR_CUDA(cudaMalloc(reinterpret_cast<void**>(&data), 1 << 20));
  KVASIR_CUDA(cudaMemset(data, 0, 1 << 20));
  KVASIR_CUDA(cudaMallocHost(reinterpret_cast<void**>(&pinned), 1 << 20));
  int driver = 0;
  KVASIR_CUDA(cudaDriverGetVersion(&driver));
  std::printf("{\"benchmark\":\"launch\",\"driver\":%d,\"runtime\":%d}\n", driver, CUDART_VERSION);
  report("kernel", stream, [&] { launchChained({stream, false}, smallKernel, 8, 128, data); });
  report("upload by the copy engine", stream, [&] { KVASIR_CUDA(cudaMemcpyAsync(data, pinned, kBytes, cudaMemcpyHostToDevice, stream)); });
  report("upload by a kernel", stream, [&] { copyPinned(stream, data, pinned, kBytes, cudaMemcpyHostToDevice); });
  report("read by the copy engine", stream, [&] { KVASIR_CUDA(cudaMemcpyAsync(pinned, data, 512, cudaMemcpyDeviceToHost, stream)); });
  report("read by a kernel", stream, [&] { copyPinned(stream, pinned, data, 512, cudaMemcpyDeviceToHost); });
  report("record of an event", stream, [&] { KVASIR_CUDA(cudaEventRecord(event, stream)); });
  report("cudaSetDevice", stream, [&] { KVASIR_CUDA(cudaSetDevice(0)); });
  benchGraphs(stream, data);
  return 0;
}
