// Times launches of attention_cuda_bench.cu: the best of five replays of a graph of launches over different caches, so that keys come from
// memory and not from L2.
#pragma once

#include <memory>

#include "bench/attention_cuda_case.cuh"

namespace kvasir::cuda::bench {

using Batches = std::vector<std::unique_ptr<Batch>>;

inline double keysOf(const Case& c) {
  double keys = 0;
  for (const Sequence& s : c.sequences) keys += s.seqLen;
  return keys;
}
inline double bytesOf(const Case& c) { return keysOf(c) * c.numKvHeads * c.headDim * 2 * static_cast<double>(elementSize(c.cacheType())); }

inline Batches batchesOf(CudaStream& stream, const Case& c) {
  Batches batches;
  const int copies = static_cast<int>(std::clamp(2e8 / bytesOf(c) + 1, 2.0, 16.0));
  for (int i = 0; i < copies; ++i) batches.push_back(std::make_unique<Batch>(stream, c));
  return batches;
}

// Microseconds of one launch of a round over all batches.
template <class F>
double measure(CudaStream& stream, const Batches& batches, F&& launch) {
  const size_t launches = std::max<size_t>(8, batches.size());
  for (const auto& batch : batches) launch(*batch);
  stream.beginCapture();
  for (size_t i = 0; i < launches; ++i) launch(*batches[i % batches.size()]);
  const int graph = stream.endCapture();
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  float best = 1e30f;
  for (int i = 0; i < 6; ++i) {  // the first one warms up
    float milliseconds = 0;
    KVASIR_CUDA(cudaEventRecord(begin, stream.handle()));
    stream.launchGraph(graph);
    KVASIR_CUDA(cudaEventRecord(end, stream.handle()));
    KVASIR_CUDA(cudaEventSynchronize(end));
    KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i > 0) best = std::min(best, milliseconds);
  }
  KVASIR_CUDA(cudaEventDestroy(begin));
  KVASIR_CUDA(cudaEventDestroy(end));
  stream.destroyGraph(graph);
  return best * 1e3 / static_cast<double>(launches);
}

}  // namespace kvasir::cuda::bench
