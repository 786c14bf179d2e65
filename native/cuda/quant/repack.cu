// Packed integers of checkpoints into canonical rows. These run once per weight: a thread makes one byte of the result.
#include "core/pack_format.h"
#include "cuda/access.cuh"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

// The nibble of AWQ words that holds output n.
__device__ __forceinline__ int awqNibble(int64_t n) { return static_cast<int>(n % 8 / 2 + n % 2 * 4); }

// Input k of output n; source has rows of `columns` words.
__device__ __forceinline__ uint32_t nibbleOf(PackFormat format, const uint32_t* source, int64_t columns, int64_t n, int64_t k) {
  if (format == PackFormat::Compressed) return source[n * columns + k / 8] >> (k % 8 * 4) & 15u;
  if (format != PackFormat::Awq) return source[k / 8 * columns + n] >> (k % 8 * 4) & 15u;
  return source[k * columns + n / 8] >> (awqNibble(n) * 4) & 15u;
}

// out: [rows, bytes], all of it by a grid-stride loop.
__global__ void __launch_bounds__(kThreads) repackInt4Kernel(uint8_t* out, int64_t total, int64_t bytes, const uint32_t* source, int64_t columns,
                                                             PackFormat format) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const int64_t n = i / bytes, k = i % bytes * 2;
    out[i] = static_cast<uint8_t>(nibbleOf(format, source, columns, n, k) | nibbleOf(format, source, columns, n, k + 1) << 4);
  }
}

// out: [rows, k].
__global__ void __launch_bounds__(kThreads) repackInt8Kernel(uint8_t* out, int64_t total, int64_t k, const uint32_t* source, int64_t columns, bool rowMajor) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const int64_t n = i / k, input = i % k;
    const uint32_t word = rowMajor ? source[n * columns + input / 4] : source[input / 4 * columns + n];
    out[i] = static_cast<uint8_t>((word >> (input % 4 * 8) & 255u) ^ 128u);
  }
}

// out: [rows, groups].
__global__ void __launch_bounds__(kThreads) unpackZerosKernel(uint8_t* out, int64_t total, int64_t groups, const uint32_t* source, int64_t columns,
                                                              PackFormat format) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const int64_t n = i / groups, group = i % groups;
    const int nibble = format == PackFormat::Awq ? awqNibble(n) : static_cast<int>(n % 8);
    const uint32_t word = format == PackFormat::Compressed ? source[n / 8 * columns + group] : source[group * columns + n / 8];
    out[i] = static_cast<uint8_t>((word >> (nibble * 4) & 15u) + (format == PackFormat::Gptq ? 1u : 0u));
  }
}

// One thread per element of out [rows, columns], in launches of the usual kind.
template <class K, class... A>
void launchBytes(CudaStream& stream, const char* name, K kernel, const Tensor& out, const Tensor& source, A... more) {
  const int64_t total = out.numel();
  if (total == 0) return;
  stream.launch(name, [&](cudaStream_t s) {
    kernel<<<gridFor(total, kThreads, stream.multiprocessors()), kThreads, 0, s>>>(out.ptr<uint8_t>(), total, out.dims[1], source.ptr<uint32_t>(),
                                                                                     source.dims[1], more...);
  });
}

// Every kernel of this backend reads weights as they are stored. A packed one does not change any more, see CudaStream::mayReadEarly.
void settle(CudaStream& stream) {
  stream.flush();
  stream.weightsChanged();
}

}  // namespace

void repackInt4(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  launchBytes(stream, "repackInt4", repackInt4Kernel, out, source, static_cast<PackFormat>(format));
}

void repackInt8(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  launchBytes(stream, "repackInt8", repackInt8Kernel, out, source, static_cast<PackFormat>(format) == PackFormat::Compressed);
}

void unpackZeros(CudaStream& stream, const Tensor& out, const Tensor& source, int64_t format) {
  launchBytes(stream, "unpackZeros", unpackZerosKernel, out, source, static_cast<PackFormat>(format));
}

void packInt4(CudaStream& stream, const Tensor&, const Tensor&, const MaybeTensor&) { settle(stream); }
void packInt8(CudaStream& stream, const Tensor&, const Tensor&) { settle(stream); }
void packFp8(CudaStream& stream, const Tensor&) { settle(stream); }

}  // namespace kvasir::cuda
