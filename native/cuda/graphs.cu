// Graphs of a CudaStream: capture, launch, and what they are made of.
#include <utility>

#include "cuda/check.h"
#include "cuda/stream.h"

namespace kvasir::cuda {

namespace {

// Edges of a captured graph, and how many of them are programmatic.
void countEdges(cudaGraph_t graph, GraphInfo& info) {
#if CUDART_VERSION >= 13000
  const auto getEdges = [&](cudaGraphEdgeData* data, size_t* count, cudaGraphNode_t* from, cudaGraphNode_t* to) {
    KVASIR_CUDA(cudaGraphGetEdges(graph, from, to, data, count));
  };
#else
  const auto getEdges = [&](cudaGraphEdgeData* data, size_t* count, cudaGraphNode_t* from, cudaGraphNode_t* to) {
    KVASIR_CUDA(cudaGraphGetEdges_v2(graph, from, to, data, count));
  };
#endif
  size_t count = 0;
  getEdges(nullptr, &count, nullptr, nullptr);
  std::vector<cudaGraphNode_t> from(count), to(count);
  std::vector<cudaGraphEdgeData> data(count);
  if (count > 0) getEdges(data.data(), &count, from.data(), to.data());
  info.edges = static_cast<int64_t>(count);
  for (const cudaGraphEdgeData& edge : data) info.early += edge.type == cudaGraphDependencyTypeProgrammatic;
}

GraphInfo describeGraph(cudaGraph_t graph) {
  GraphInfo info;
  size_t count = 0;
  KVASIR_CUDA(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  if (count > 0) KVASIR_CUDA(cudaGraphGetNodes(graph, nodes.data(), &count));
  info.nodes = static_cast<int64_t>(count);
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    KVASIR_CUDA(cudaGraphNodeGetType(node, &type));
    switch (type) {
      case cudaGraphNodeTypeKernel: ++info.kernels; break;
      case cudaGraphNodeTypeMemcpy: ++info.copies; break;
      case cudaGraphNodeTypeMemset: ++info.memsets; break;
      default: ++info.others;
    }
  }
  countEdges(graph, info);
  return info;
}

// Calls that a capture on another stream of this thread (a rank that shares the thread) would forbid, although they have no part in it.
class BesideCaptures {
 public:
  BesideCaptures() { KVASIR_CUDA(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Makes a graph ready to launch; its first launch then costs what the later ones do.
cudaGraphExec_t instantiate(cudaGraph_t graph, cudaStream_t stream) {
  const BesideCaptures beside;
  cudaGraphExec_t executable = nullptr;
  KVASIR_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  const cudaError_t error = cudaGraphUpload(executable, stream);
  if (error != cudaSuccess) cudaGraphExecDestroy(executable);
  check(error, "cudaGraphUpload");
  return executable;
}

}  // namespace

void CudaStream::checkNotCapturing(const char* what) const {
  if (capturing_) fail(kNativeError, "%s while a graph is captured", what);
}

void CudaStream::beginCapture() {
  checkNotCapturing("another capture cannot begin");
  flush();
  setDevice();
  KVASIR_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  capturing_ = true;
}

int CudaStream::endCapture() {
  if (!capturing_) fail(kNativeError, "no graph is being captured");
  try {
    flush();
  } catch (...) {
    discardCapture();
    throw;
  }
  weightsChanged();  // what was captured has not run
  capturing_ = false;
  cudaGraph_t captured = nullptr;
  KVASIR_CUDA(cudaStreamEndCapture(stream_, &captured));
  const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owner(captured, cudaGraphDestroy);
  const GraphInfo info = describeGraph(captured);
  graphs_.push_back({instantiate(captured, stream_), info});
  ++liveGraphs_;
  return static_cast<int>(graphs_.size()) - 1;
}

void CudaStream::discardCapture() noexcept {
  if (!capturing_) return;
  capturing_ = false;
  pending_ = {};
  weightsChanged();
  cudaGraph_t captured = nullptr;
  cudaStreamEndCapture(stream_, &captured);  // says again what failed before
  if (captured) cudaGraphDestroy(captured);
  cudaGetLastError();
}

CudaStream::Graph& CudaStream::graph(int id) {
  if (id < 0 || id >= static_cast<int>(graphs_.size()) || !graphs_[static_cast<size_t>(id)].executable) fail(kDisposedError, "graph %d does not exist", id);
  return graphs_[static_cast<size_t>(id)];
}

const GraphInfo& CudaStream::graphInfo(int id) { return graph(id).info; }

void CudaStream::launchGraph(int id) {
  const cudaGraphExec_t executable = graph(id).executable;
  checkNotCapturing("a graph cannot be launched");
  flush();
  setDevice();
  KVASIR_CUDA(cudaGraphLaunch(executable, stream_));
}

void CudaStream::destroyGraph(int id) {
  cudaGraphExecDestroy(std::exchange(graph(id).executable, nullptr));  // after a device fault this fails, and freeing goes on
  if (--liveGraphs_ == 0) freeRetired();
}

}  // namespace kvasir::cuda
