// Rotary position embedding in place. A token whose position lies outside the table is left as it is: kernels do not report errors, and
// the rows that pad a graph's batch must not fail (the CPU backend reports ERR_KVASIR_TENSOR).
#include "cuda/rope.cuh"

#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 128;

struct Heads {
  void* data;
  int64_t tokenStride, headStride;  // in elements
  int count;
};

// Block (token, part) of [units of a head][heads]: thread (x, y) rotates units x, x + blockDim.x, .. of one head of the token, where the
// heads of q come first, then those of k.
//   q [numTokens, q.count, headDim], k [numTokens, k.count, headDim]; cosSin [maxPosition][2 * half].
template <class T, int N, bool kNeox>
__global__ void __launch_bounds__(kThreads) ropeKernel(Heads q, Heads k, const void* positions, bool wide, const float* cosSin, int64_t cosSinStride,
                                                       int64_t maxPosition, int half) {
  const int64_t token = blockIdx.x;
  const float* row = cosSinRow(cosSin, cosSinStride, maxPosition, positions, wide, token);
  const int index = blockIdx.y * blockDim.y + threadIdx.y;
  if (!row || index >= q.count + k.count) return;
  const bool isQuery = index < q.count;
  T* head = isQuery ? static_cast<T*>(q.data) + token * q.tokenStride + index * q.headStride
                    : static_cast<T*>(k.data) + token * k.tokenStride + (index - q.count) * k.headStride;
  for (int u = threadIdx.x; u < half / N; u += blockDim.x) {
    RotaryUnit<T, N, kNeox> unit;
    unit.load(head, u, half);
    unit.rotate(row, u, half);
    unit.store(head, u, half);
  }
}

Heads headsOf(const Tensor& x) { return {x.data, x.strides[0], x.strides[1], static_cast<int>(x.dims[1])}; }

bool vectorHeads(const Tensor& x) {
  const int64_t size = elementSize(x.dtype);
  return accessBytes({addressOf(x), x.strides[0] * size, x.strides[1] * size}) == 16;
}

}  // namespace

void rope(CudaStream& stream, const Tensor& positions, const Tensor& q, const MaybeTensor& k, const Tensor& cosSin, bool isNeox) {
  const int half = static_cast<int>(cosSin.dims[1] / 2), numHeads = static_cast<int>(q.dims[1] + (k ? k->dims[1] : 0));
  if (q.dims[0] == 0 || numHeads == 0 || half == 0) return;
  const int64_t size = elementSize(q.dtype);
  const bool vector = accessBytes({half * size, half * int64_t{sizeof(float)}, addressOf(cosSin), cosSin.strides[0] * int64_t{sizeof(float)}}) == 16 &&
                      vectorHeads(q) && (!k || vectorHeads(*k));
  stream.launch("rope", [&](cudaStream_t s) {
    dispatchFloat(q.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = Vec<T>::kSize;
      const auto kernel = vector ? (isNeox ? ropeKernel<T, N, true> : ropeKernel<T, N, false>) : (isNeox ? ropeKernel<T, 1, true> : ropeKernel<T, 1, false>);
      const int units = vector ? half / N : half, across = std::min(units, kThreads), rows = kThreads / across;
      const dim3 grid(static_cast<unsigned>(q.dims[0]), static_cast<unsigned>(ceilDiv(numHeads, rows)));
      kernel<<<grid, dim3(across, rows), 0, s>>>(headsOf(q), k ? headsOf(*k) : Heads{}, positions.data, positions.dtype == DType::Int64, cosSin.ptr<float>(),
                                                 cosSin.strides[0], cosSin.dims[0], half);
    });
  });
}

}  // namespace kvasir::cuda
