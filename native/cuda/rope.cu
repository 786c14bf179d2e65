// Rotary position embedding in place, of heads as they are or normalised. A token whose position lies outside the table is left as it is:
// kernels do not report errors, and the rows that pad a graph's batch must not fail (the CPU backend reports ERR_KVASIR_TENSOR).
#include "cuda/rope.cuh"

#include <cuda_runtime.h>

#include "cuda/dependent_launch.cuh"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

// Block (token, part) of [units of a head][heads]: thread (x, y) rotates units x, x + blockDim.x, .. of one head of the token, where the
// heads of q come first, then those of k. kNorm: after the head's RMSNorm, see threadsAcross().
//   q [numTokens, q.count, headDim], k [numTokens, k.count, headDim]; cosSin [maxPosition][2 * half].
template <class T, int N, bool kNeox, bool kNorm>
__global__ void __launch_bounds__(kThreads) ropeKernel(Heads q, Heads k, const void* positions, bool wide, const float* cosSin, int64_t cosSinStride,
                                                       int64_t maxPosition, int half, int headDim, const HeadNorm norm) {
  letNextStart();
  waitForPrevious();
  const int64_t token = blockIdx.x;
  const float* row = cosSinRow(cosSin, cosSinStride, maxPosition, positions, wide, token);
  const int index = blockIdx.y * blockDim.y + threadIdx.y;
  if (!row || index >= q.count + k.count) return;
  const bool isQuery = index < q.count;
  T* head = isQuery ? q.at<T>(token, index) : k.at<T>(token, index - q.count);
  const T* weight = static_cast<const T*>(isQuery ? norm.qWeight : norm.kWeight);
  rotateHead<T, N, kNeox, kNorm>(head, nullptr, row, half, headDim, weight, norm.eps, norm.gemma);
}

template <class T, int N>
auto kernelFor(bool isNeox, bool norm) {
  if (norm) return isNeox ? ropeKernel<T, N, true, true> : ropeKernel<T, N, false, true>;
  return isNeox ? ropeKernel<T, N, true, false> : ropeKernel<T, N, false, false>;
}

void launchRope(CudaStream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox, bool vector,
                const std::optional<PendingRope::Norms>& norms = {}) {
  const int half = static_cast<int>(cosSin.dims[1] / 2), numHeads = static_cast<int>(q.dims[1] + (k ? k->dims[1] : 0));
  stream.launch(norms ? "normRope" : "rope", [&](cudaStream_t s) {
    dispatchFloat(q.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? kernelFor<T, N>(isNeox, norms.has_value()) : kernelFor<T, 1>(isNeox, norms.has_value());
      const int across = threadsAcross(vector ? half / N : half, norms.has_value(), kThreads), rows = kThreads / across;
      const dim3 grid(static_cast<unsigned>(q.dims[0]), static_cast<unsigned>(ceilDiv(numHeads, rows)));
      launchChained({s, stream.overlaps()}, kernel, grid, dim3(across, rows), headsOf(q), k ? headsOf(*k) : Heads{}, positions.data,
                    positions.dtype == DType::Int64, cosSin.ptr<float>(), cosSin.strides[0], cosSin.dims[0], half, static_cast<int>(q.dims[2]), headNormOf(norms));
    });
  });
}

}  // namespace

void rope(CudaStream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  const int half = static_cast<int>(cosSin.dims[1] / 2), numHeads = static_cast<int>(q.dims[1] + (k ? k->dims[1] : 0));
  if (q.dims[0] == 0 || numHeads == 0 || half == 0) return;
  const bool vector = vectorTable(cosSin, q.dtype) && vectorHeads(q) && (!k || vectorHeads(*k));
  if (vector && k) return stream.hold(PendingRope{positions, q, *k, cosSin, isNeox, {}});
  launchRope(stream, positions, q, k, cosSin, isNeox, vector);
}

void normRope(CudaStream& stream, const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& qWeight, const Tensor& kWeight, const Tensor& cosSin,
              double eps, bool gemma, bool isNeox) {
  if (q.dims[0] == 0 || q.dims[1] + k.dims[1] == 0) return;
  const PendingRope op{positions, q, k, cosSin, isNeox, PendingRope::Norms{qWeight, kWeight, static_cast<float>(eps), gemma}};
  const bool wholeVectors = accessBytes({q.dims[2] * elementSize(q.dtype), addressOf(qWeight), addressOf(kWeight)}) == 16;
  if (wholeVectors && vectorTable(cosSin, q.dtype) && vectorHeads(q) && vectorHeads(k)) return stream.hold(op);
  launchRope(stream, positions, q, k, cosSin, isNeox, false, op.norms);
}

void run(CudaStream& stream, const PendingRope& op) { launchRope(stream, op.positions, op.q, op.k, op.cosSin, op.isNeox, true, op.norms); }

}  // namespace kvasir::cuda
