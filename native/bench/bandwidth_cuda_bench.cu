// The ceiling of decoding: how fast this GPU reads memory, by a kernel that does nothing else. Prints one JSON line.
//   node scripts/build-cuda.js --benches && build/cuda/bench/bandwidth_cuda_bench [MiB=2048]
// The buffer exceeds the L2 cache many times, so that a pass finds nothing of the one before. Reported: the best of the passes, in
// bytes per second of 1e9, and a device-to-device copy (bytes read and written) beside it.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "cuda/check.h"

namespace {

constexpr int kThreads = 512;
constexpr int kLoadsInFlight = 8;
constexpr int kPasses = 20;

// A block reads tiles of kThreads * kLoadsInFlight 16-byte words, a grid apart; a thread has kLoadsInFlight loads under way. The sum is
// stored only when it has a value that the memory (all zeros) cannot give: the loads stay, the stores do not.
__global__ void __launch_bounds__(kThreads) readKernel(const uint4* __restrict__ x, int64_t words, unsigned* out) {
  constexpr int64_t tile = kThreads * kLoadsInFlight;
  unsigned sum = 0;
  for (int64_t start = blockIdx.x * tile; start + tile <= words; start += gridDim.x * tile) {
    uint4 values[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) values[i] = __ldcs(x + start + i * kThreads + threadIdx.x);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) sum ^= values[i].x ^ values[i].y ^ values[i].z ^ values[i].w;
  }
  if (sum != 0) *out = sum;
}

// Seconds of the fastest of kPasses runs on `stream`.
template <class F>
double best(cudaStream_t stream, F&& run) {
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  float shortest = 1e30f;
  for (int i = 0; i < kPasses; ++i) {
    KVASIR_CUDA(cudaEventRecord(begin, stream));
    run();
    KVASIR_CUDA(cudaEventRecord(end, stream));
    KVASIR_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    shortest = std::min(shortest, milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return shortest / 1e3;
}

void measure(int64_t bytes) {
  cudaDeviceProp device{};
  KVASIR_CUDA(cudaGetDeviceProperties(&device, 0));
  cudaStream_t stream;
  KVASIR_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  char* memory = nullptr;
  unsigned* out = nullptr;
  KVASIR_CUDA(cudaMalloc(&memory, static_cast<size_t>(bytes)));
  KVASIR_CUDA(cudaMalloc(&out, sizeof *out));
  KVASIR_CUDA(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream));

  double read = 1e30;
  int readBlocks = 0;
  for (const int perMultiprocessor : {1, 2, 4, 8}) {
    const int blocks = device.multiProcessorCount * perMultiprocessor;
    const double seconds = best(stream, [&] {
      readKernel<<<blocks, kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(memory), bytes / 16, out);
      KVASIR_CUDA(cudaGetLastError());
    });
    if (seconds < read) read = seconds, readBlocks = perMultiprocessor;
  }
  const double copy = best(stream, [&] {
    KVASIR_CUDA(cudaMemcpyAsync(memory, memory + bytes / 2, static_cast<size_t>(bytes / 2), cudaMemcpyDeviceToDevice, stream));
  });
  std::printf("{\"bench\":\"bandwidth\",\"device\":\"%s\",\"bytes\":%lld,\"readGBs\":%.1f,\"blocksPerMultiprocessor\":%d,\"copyGBs\":%.1f}\n", device.name,
              static_cast<long long>(bytes), bytes / read / 1e9, readBlocks, bytes / copy / 1e9);
  cudaFree(memory);
  cudaFree(out);
  cudaStreamDestroy(stream);
}

}  // namespace

int main(int argc, char** argv) {
  const long mebibytes = argc > 1 ? std::atol(argv[1]) : 2048;
  if (mebibytes < 1) {
    std::fprintf(stderr, "the size must be a positive number of MiB, received %s\n", argv[1]);
    return 2;
  }
  try {
    measure(static_cast<int64_t>(mebibytes) << 20);
    return 0;
  } catch (const kvasir::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
