#include <cuda_runtime.h>

#include <bit>
#include <cstring>

#include "core/file_rows.h"
#include "cuda/access.cuh"
#include "cuda/convert.cuh"
#include "cuda/gather.h"
#include "cuda/kernels.h"

namespace kvasir::cuda {

namespace {

constexpr int kThreads = 256;

// Dims and strides (in elements) of both sides, outermost first, filled up on the left with size 1.
struct CopyShape {
  int64_t dims[kMaxRank], out[kMaxRank], in[kMaxRank];
  bool denseRows() const { return out[kMaxRank - 1] == 1 && in[kMaxRank - 1] == 1; }
  bool dense() const { return denseRows() && dims[kMaxRank - 2] == 1; }  // the merged shape has at most one row
};

// Orders the axes by their distance in out, so that neighbouring threads write neighbouring elements, and merges those that continue
// each other on both sides.
CopyShape planCopy(const Tensor& out, const Tensor& x) {
  struct Axis {
    int64_t size, out, in;
  };
  Axis axes[kMaxRank];
  int n = 0;
  for (int i = 0; i < out.rank; ++i)
    if (out.dims[i] != 1) axes[n++] = {out.dims[i], out.strides[i], x.strides[i]};
  std::stable_sort(axes, axes + n, [](const Axis& a, const Axis& b) { return a.out > b.out; });
  int merged = 0;
  for (int i = 0; i < n; ++i) {
    Axis* last = merged ? &axes[merged - 1] : nullptr;
    if (last && last->out == axes[i].size * axes[i].out && last->in == axes[i].size * axes[i].in) *last = {last->size * axes[i].size, axes[i].out, axes[i].in};
    else axes[merged++] = axes[i];
  }
  CopyShape shape;
  for (int i = 0; i < kMaxRank; ++i) {
    const int at = i - (kMaxRank - merged);
    const Axis axis = at < 0 ? Axis{1, 1, 1} : axes[at];
    shape.dims[i] = axis.size;
    shape.out[i] = axis.out;
    shape.in[i] = axis.in;
  }
  return shape;
}

// quotient and remainder of non-negative numbers; a 64-bit division costs several times a 32-bit one.
__device__ __forceinline__ void divMod(int64_t n, int64_t d, int64_t& quotient, int64_t& remainder) {
  if (((n | d) >> 32) == 0) {
    const uint32_t q = static_cast<uint32_t>(n) / static_cast<uint32_t>(d);
    remainder = static_cast<uint32_t>(n) - q * static_cast<uint32_t>(d);
    quotient = q;
  } else {
    quotient = n / d;
    remainder = n - quotient * d;
  }
}

template <class To, class From>
__device__ __forceinline__ To converted(From x) {
  if constexpr (std::is_same_v<To, From>) return x;
  else if constexpr (std::is_integral_v<To>) return static_cast<To>(x);
  else return convert<To>(toFloatDevice(x));
}

// One thread per pack of N elements of a row (N > 1 needs dense rows), in a grid-stride loop over total packs.
template <class To, class From, int N>
__global__ void __launch_bounds__(kThreads) copyKernel(To* out, const From* in, const __grid_constant__ CopyShape s, int64_t total) {
  constexpr int kLast = kMaxRank - 1;
  const int64_t perRow = s.dims[kLast] / N;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += int64_t{gridDim.x} * kThreads) {
    int64_t row, column;
    divMod(i, perRow, row, column);
    int64_t to = column * N * s.out[kLast], from = column * N * s.in[kLast];
#pragma unroll
    for (int axis = kLast - 1; axis >= 0; --axis) {
      if (row == 0) break;
      int64_t index;
      divMod(row, s.dims[axis], row, index);
      to += index * s.out[axis];
      from += index * s.in[axis];
    }
    const Pack<From, N> p = *reinterpret_cast<const Pack<From, N>*>(in + from);
    Pack<To, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.v[j] = converted<To>(p.v[j]);
    *reinterpret_cast<Pack<To, N>*>(out + to) = result;
  }
}

template <class To, class From, int N>
void copyPacks(CudaStream& stream, cudaStream_t s, void* out, const void* in, const CopyShape& shape) {
  int64_t total = 1;
  for (const int64_t size : shape.dims) total *= size;
  total /= N;
  copyKernel<To, From, N><<<gridFor(total, kThreads, stream.multiprocessors()), kThreads, 0, s>>>(static_cast<To*>(out), static_cast<const From*>(in), shape, total);
}

// Bytes of the widest access of one side: `bytes` of an element, all strides but the last.
int sideAccess(const void* data, const CopyShape& shape, const int64_t (&strides)[kMaxRank], int64_t bytes) {
  int access = accessBytes({static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)), shape.dims[kMaxRank - 1] * bytes});
  for (int i = 0; i < kMaxRank - 1; ++i)
    if (shape.dims[i] != 1) access = accessBytes({access, strides[i] * bytes});
  return access;
}

template <class To, class From>
void copyConverted(CudaStream& stream, cudaStream_t s, const Tensor& out, const Tensor& x, const CopyShape& shape) {
  constexpr int N = 16 / std::max(sizeof(To), sizeof(From));
  const bool vector = shape.denseRows() && sideAccess(out.data, shape, shape.out, sizeof(To)) >= int{N * sizeof(To)} &&
                      sideAccess(x.data, shape, shape.in, sizeof(From)) >= int{N * sizeof(From)};
  vector ? copyPacks<To, From, N>(stream, s, out.data, x.data, shape) : copyPacks<To, From, 1>(stream, s, out.data, x.data, shape);
}

template <class To>
void copyToFloat(CudaStream& stream, cudaStream_t s, const Tensor& out, const Tensor& x, const CopyShape& shape) {
  switch (x.dtype) {
    case DType::Float32: return copyConverted<To, float>(stream, s, out, x, shape);
    case DType::Float16: return copyConverted<To, __half>(stream, s, out, x, shape);
    case DType::BFloat16: return copyConverted<To, __nv_bfloat16>(stream, s, out, x, shape);
    default: return copyConverted<To, __nv_fp8_e4m3>(stream, s, out, x, shape);
  }
}

// Moves elements of one dtype as words of the size that the alignment of dense rows allows.
void copySame(CudaStream& stream, cudaStream_t s, const Tensor& out, const Tensor& x, CopyShape shape) {
  const int64_t size = elementSize(out.dtype);
  if (shape.dense()) {
    KVASIR_CUDA(cudaMemcpyAsync(out.data, x.data, static_cast<size_t>(out.numel() * size), cudaMemcpyDeviceToDevice, s));
    return;
  }
  int64_t access = size;
  if (shape.denseRows()) {
    access = std::min(sideAccess(out.data, shape, shape.out, size), sideAccess(x.data, shape, shape.in, size));
    shape.dims[kMaxRank - 1] = shape.dims[kMaxRank - 1] * size / access;
    for (int i = 0; i < kMaxRank - 1; ++i) {  // the strides of axes of size 1 are never used
      shape.out[i] = shape.out[i] * size / access;
      shape.in[i] = shape.in[i] * size / access;
    }
  }
  dispatchWord(static_cast<int>(access), [&](auto* null) {
    using Word = std::remove_pointer_t<decltype(null)>;
    copyPacks<Word, Word, 1>(stream, s, out.data, x.data, shape);
  });
}

// The bits of a value in a dtype.
uint64_t bitsOf(DType dtype, double value) {
  switch (dtype) {
    case DType::Float32: return std::bit_cast<uint32_t>(static_cast<float>(value));
    case DType::Float16: return fromFloat<f16>(static_cast<float>(value)).bits;
    case DType::BFloat16: return fromFloat<bf16>(static_cast<float>(value)).bits;
    case DType::Int32: return static_cast<uint32_t>(static_cast<int32_t>(value));
    case DType::Int64: return static_cast<uint64_t>(static_cast<int64_t>(value));
    default: return static_cast<uint8_t>(static_cast<int>(value));
  }
}

// out[0 .. n): `head` elements up to the first 16-byte boundary, then whole vectors, one per thread in a grid-stride loop, then the rest.
template <class T>
__global__ void __launch_bounds__(kThreads) fillKernel(T* out, T value, int64_t n, int64_t head) {
  constexpr int N = 16 / sizeof(T);
  Pack<T, N> pack;
#pragma unroll
  for (int j = 0; j < N; ++j) pack.v[j] = value;
  const int64_t packs = (n - head) / N, thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t i = thread; i < packs; i += int64_t{gridDim.x} * kThreads) reinterpret_cast<Pack<T, N>*>(out + head)[i] = pack;
  if (thread < head) out[thread] = value;
  const int64_t tail = head + packs * N + thread;
  if (tail < n) out[tail] = value;
}

// One thread per element in a grid-stride loop. Bit for bit what cpu::fillRandom stores: the splitmix64 finaliser of (seed, index).
template <class T>
__global__ void __launch_bounds__(kThreads) fillRandomKernel(T* out, int64_t n, uint64_t seed, float scale) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads) {
    uint64_t z = static_cast<uint64_t>(i) + seed * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const float unit = static_cast<float>(static_cast<int32_t>(z >> 32)) * 4.656612873077393e-10f;  // [-1, 1)
    out[i] = convert<T>(unit * scale);
  }
}

}  // namespace

void copy(CudaStream& stream, const Tensor& out, const Tensor& x) {
  if (out.numel() == 0) return;
  const CopyShape shape = planCopy(out, x);
  stream.launch("copy", [&](cudaStream_t s) {
    if (out.dtype == x.dtype) return copySame(stream, s, out, x, shape);
    switch (out.dtype) {
      case DType::Float32: return copyToFloat<float>(stream, s, out, x, shape);
      case DType::Float16: return copyToFloat<__half>(stream, s, out, x, shape);
      case DType::BFloat16: return copyToFloat<__nv_bfloat16>(stream, s, out, x, shape);
      case DType::Int64: return copyConverted<int64_t, int32_t>(stream, s, out, x, shape);
      default: return copyConverted<int32_t, int64_t>(stream, s, out, x, shape);
    }
  });
}

void gatherRows(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& indices) {
  stream.launch("gatherRows", [&](cudaStream_t s) { gather(s, out, x, indices, 0, stream.overlaps()); });
}

void fill(CudaStream& stream, const Tensor& out, double value) {
  const int64_t n = out.numel(), size = elementSize(out.dtype);
  if (n == 0) return;
  stream.launch("fill", [&](cudaStream_t s) {
    dispatchWord(static_cast<int>(size), [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      if constexpr (std::is_integral_v<T>) {
        const int64_t head = std::min(n, (16 - addressOf(out) % 16) % 16 / size);
        fillKernel<T><<<gridFor(ceilDiv(n * size, 16), kThreads, stream.multiprocessors()), kThreads, 0, s>>>(out.ptr<T>(), static_cast<T>(bitsOf(out.dtype, value)), n, head);
      }
    });
  });
}

void fillRandom(CudaStream& stream, const Tensor& out, int64_t seed, double scale) {
  const int64_t n = out.numel();
  if (n == 0) return;
  stream.launch("fillRandom", [&](cudaStream_t s) {
    dispatchFloat(out.dtype, [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      fillRandomKernel<T><<<gridFor(n, kThreads, stream.multiprocessors()), kThreads, 0, s>>>(out.ptr<T>(), n, static_cast<uint64_t>(seed), static_cast<float>(scale));
    });
  });
}

// One job per matrix.
void loadFromFile(CudaStream& stream, const Tensor& out, const FileView& source) {
  if (out.numel() == 0) return;
  if (source.dtype != out.dtype && !isFloating(out.dtype))
    fail(kTensorError, "loadFromFile: %s cannot be converted to %s on a CUDA device", dtypeName(source.dtype), dtypeName(out.dtype));
  if (out.rank && out.dim(-1) > 1 && source.strides[out.rank - 1] != 1) fail(kTensorError, "loadFromFile: rows of the file's tensor must be dense");
  const FileRows plan = fileRows(out, source);
  const int64_t outSize = elementSize(out.dtype), fileSize = elementSize(source.dtype);
  for (int64_t m = 0; m < plan.matrices; ++m) {
    const MatrixStart start = matrixStart(out, source, plan, m);
    Tensor rows = out;
    rows.data = out.ptr<char>() + start.out * outSize;
    rows.rank = 2;
    rows.dims[0] = plan.rows;
    rows.dims[1] = plan.width;
    rows.strides[0] = plan.outStride;
    rows.strides[1] = 1;
    stream.load({rows, source.fd, source.byteOffset + start.file * fileSize, source.dtype, plan.fileStride});
  }
}

}  // namespace kvasir::cuda
