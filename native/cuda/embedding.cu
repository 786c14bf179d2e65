#include <cuda_runtime.h>

#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/gather.h"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxParts = 32;

// Block (row, part): the threads of all parts walk the row's packs of N elements, one per thread and round.
//   out [numRows][packs], x [tableRows][packs], ids [numRows]; strides in elements. From == To moves words of any meaning.
template <class To, class From, int N>
__global__ void __launch_bounds__(kThreads) gatherKernel(To* out, int64_t outStride, const From* x, int64_t xStride, int64_t tableRows,
                                                         const int32_t* ids, int64_t start, int64_t packs) {
  letNextStart();
  waitForPrevious();
  const int64_t row = int64_t{ids[blockIdx.x]} - start;
  const bool inside = row >= 0 && row < tableRows;
  auto* to = reinterpret_cast<Pack<To, N>*>(out + blockIdx.x * outStride);
  const auto* from = reinterpret_cast<const Pack<From, N>*>(x + (inside ? row : 0) * xStride);
  for (int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x; i < packs; i += int64_t{gridDim.y} * kThreads) {
    Pack<To, N> result{};
    if (inside) {
      const Pack<From, N> p = from[i];
      if constexpr (std::is_same_v<To, From>) {
        result = p;
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j) result.v[j] = toFloatDevice(p.v[j]);
      }
    }
    to[i] = result;
  }
}

dim3 gridOf(int64_t rows, int64_t packs) {
  return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(std::min(ceilDiv(packs, kThreads), kMaxParts)));
}

template <class From, int N>
void widen(Chain chain, const Tensor& out, const Tensor& x, const Tensor& ids, int64_t start) {
  const int64_t packs = out.dims[1] / N;
  launchChained(chain, gatherKernel<float, From, N>, gridOf(out.dims[0], packs), kThreads, out.ptr<float>(), out.strides[0], x.ptr<From>(), x.strides[0],
                x.dims[0], ids.ptr<int32_t>(), start, packs);
}

template <class From>
void widenRows(Chain chain, const Tensor& out, const Tensor& x, const Tensor& ids, int64_t start) {
  const bool vector = accessBytes({addressOf(out), out.strides[0] * 4, out.dims[1] * 4}) == 16 && accessBytes({addressOf(x), x.strides[0] * 2}) >= 8;
  vector ? widen<From, 4>(chain, out, x, ids, start) : widen<From, 1>(chain, out, x, ids, start);
}

void moveRows(Chain chain, const Tensor& out, const Tensor& x, const Tensor& ids, int64_t start) {
  const int64_t size = elementSize(x.dtype), rowBytes = out.dims[1] * size;
  dispatchWord(accessBytes({addressOf(out), addressOf(x), rowBytes, out.strides[0] * size, x.strides[0] * size}), [&](auto* null) {
    using Word = std::remove_pointer_t<decltype(null)>;
    constexpr int64_t bytes = sizeof(Word);
    launchChained(chain, gatherKernel<Word, Word, 1>, gridOf(out.dims[0], rowBytes / bytes), kThreads, out.ptr<Word>(), out.strides[0] * size / bytes,
                  x.ptr<Word>(), x.strides[0] * size / bytes, x.dims[0], ids.ptr<int32_t>(), start, rowBytes / bytes);
  });
}

}  // namespace

void gather(cudaStream_t stream, const Tensor& out, const Tensor& x, const Tensor& ids, int64_t start, bool overlap) {
  const Chain chain{stream, overlap};
  if (out.numel() == 0) return;
  if (out.dtype == x.dtype) return moveRows(chain, out, x, ids, start);
  x.dtype == DType::BFloat16 ? widenRows<__nv_bfloat16>(chain, out, x, ids, start) : widenRows<__half>(chain, out, x, ids, start);
}

void embedding(CudaStream& stream, const Tensor& out, const Tensor& weight, const Tensor& ids, int64_t vocabStart) {
  stream.launch("embedding", [&](cudaStream_t s) { gather(s, out, weight, ids, vocabStart, stream.overlaps()); });
}

}  // namespace kvasir::cuda
