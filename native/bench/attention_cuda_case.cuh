// Batches for attention_cuda_bench.cu: inputs that follow from a sequence's number and a position alone, a poisoned cache that holds exactly
// the keys that are attended, and a reference that does not read them from there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cuda/attention/attention.h"
#include "cuda/cache_layout.cuh"
#include "cuda/convert.cuh"
#include "cuda/kernels.h"

namespace kvasir::cuda::bench {

struct Sequence {
  int queryLen, seqLen;
  int id = -1;  // which keys and queries; by default its place in the batch
};

struct Case {
  DType dtype = DType::BFloat16;
  int headDim = 128, numKvHeads = 2, group = 4;
  bool fp8 = false;  // a float8_e4m3 cache, instead of one of `dtype`
  std::vector<Sequence> sequences = {};
  int window = 0;
  double softCap = 0;
  bool alibi = false, sinks = false;
  int padding = 0;         // tokens after the last sequence
  int qGap = 0;            // elements between tokens of q
  int64_t firstBlock = 0;  // blocks before this one are not used

  DType cacheType() const { return fp8 ? DType::Float8E4M3 : dtype; }
  double kScale() const { return fp8 ? 0.02 : 1; }
  double vScale() const { return fp8 ? 0.03 : 1; }
};

class Buffer {
 public:
  Buffer(CudaStream& stream, int64_t bytes, int poison = 0xff) : stream_(stream), bytes_(bytes), data_(stream.allocate(bytes)) {
    KVASIR_CUDA(cudaMemsetAsync(data_, poison, static_cast<size_t>(bytes), stream.handle()));
  }
  template <class E>
  Buffer(CudaStream& stream, const std::vector<E>& values) : Buffer(stream, std::max<int64_t>(1, static_cast<int64_t>(values.size())) * int64_t{sizeof(E)}) {
    KVASIR_CUDA(cudaMemcpyAsync(data_, values.data(), values.size() * sizeof(E), cudaMemcpyHostToDevice, stream.handle()));
    KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
  }
  ~Buffer() { stream_.deallocate(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <class E = char>
  E* ptr() const {
    return static_cast<E*>(data_);
  }
  template <class E>
  std::vector<E> read() const {
    std::vector<E> values(static_cast<size_t>(bytes_ / int64_t{sizeof(E)}));
    KVASIR_CUDA(cudaMemcpyAsync(values.data(), data_, values.size() * sizeof(E), cudaMemcpyDeviceToHost, stream_.handle()));
    KVASIR_CUDA(cudaStreamSynchronize(stream_.handle()));
    return values;
  }

 private:
  CudaStream& stream_;
  int64_t bytes_;
  void* data_;
};

inline Tensor tensorOf(void* data, DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  for (const int64_t d : dims) t.dims[t.rank++] = d;
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) t.strides[i] = stride, stride *= t.dims[i];
  return t;
}

enum Kind : uint32_t { kQuery, kKey, kValue };

// A number in about [-1.7, 1.7] (queries: twice that, of float8_e4m3 caches: 50 times), as T would hold it.
template <class T>
__device__ float element(int id, Kind kind, int64_t index) {
  uint64_t x = static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15ull + (static_cast<uint64_t>(id) * 4 + kind + 1) * 0xd1342543de82ef95ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  const float unit = static_cast<float>(static_cast<int32_t>(x >> 32)) * (1.7f / 2147483648.0f);
  return toFloatDevice(convert<T>(kind == kQuery ? 2 * unit : std::is_same_v<T, __nv_fp8_e4m3> ? 50 * unit : unit));
}

struct DeviceCase {
  const int32_t *ids, *queryLens, *seqLens, *starts, *rows, *table;
  int numSeqs, numKvHeads, group, headDim, width, window;
  int64_t qTokenStride;
  float scale, valueScale, softCap;
  const float *slopes, *sinks;
};

// Block: one sequence. Writes the keys that some query attends, and the queries.
template <class T, class C>
__global__ void fillCase(DeviceCase c, C* cache, T* q) {
  const int s = blockIdx.x, id = c.ids[s], queryLen = c.queryLens[s], seqLen = c.seqLens[s], context = seqLen - queryLen;
  const int width = c.numKvHeads * c.headDim, numHeads = c.numKvHeads * c.group;
  const int first = c.window ? max(0, context - c.window + 1) : 0;
  if (queryLen > 0)
    for (int64_t i = int64_t{first} * width + threadIdx.x; i < int64_t{seqLen} * width; i += blockDim.x) {
      const int key = static_cast<int>(i / width), head = static_cast<int>(i % width) / c.headDim, d = static_cast<int>(i % c.headDim);
      const int64_t slot = int64_t{c.table[c.rows[s] * c.width + key / kPageTokens]} * kPageTokens + key % kPageTokens;
      C* to = cache + keyRow(slot, head, c.numKvHeads, c.headDim) + d;
      to[0] = convert<C>(element<C>(id, kKey, i));
      to[valueOffset(c.numKvHeads, c.headDim)] = convert<C>(element<C>(id, kValue, i));
    }
  const int qWidth = numHeads * c.headDim;
  for (int64_t i = threadIdx.x; i < int64_t{queryLen} * qWidth; i += blockDim.x)
    q[(c.starts[s] + i / qWidth) * c.qTokenStride + i % qWidth] = convert<T>(element<T>(id, kQuery, int64_t{context} * qWidth + i));
}

__device__ inline double blockReduce(double x, bool maximum, double* shared) {
  shared[threadIdx.x] = x;
  __syncthreads();
  double result = shared[0];
  for (unsigned i = 1; i < blockDim.x; ++i) result = maximum ? fmax(result, shared[i]) : result + shared[i];
  __syncthreads();
  return result;
}

// Block (token, head): the whole row in float64, inputs made anew. Shared: a logit per key.
template <class T, class C>
__global__ void __launch_bounds__(128) referenceKernel(DeviceCase c, const int32_t* sequenceOf, float* out) {
  extern __shared__ float logits[];
  __shared__ double reduce[128];
  const int token = blockIdx.x, head = blockIdx.y, numHeads = gridDim.y, s = sequenceOf[token];
  float* row = out + (int64_t{token} * numHeads + head) * c.headDim;
  const int seqLen = s < 0 ? 0 : c.seqLens[s];
  if (seqLen == 0) {
    for (int d = threadIdx.x; d < c.headDim; d += blockDim.x) row[d] = 0;
    return;
  }
  const int id = c.ids[s], position = seqLen - c.queryLens[s] + token - c.starts[s], lo = c.window ? max(0, position - c.window + 1) : 0;
  const int64_t width = int64_t{c.numKvHeads} * c.headDim, kvOffset = int64_t{head / c.group} * c.headDim;
  double top = c.sinks ? c.sinks[head] : -1e300;
  for (int key = lo + threadIdx.x; key <= position; key += blockDim.x) {
    double x = 0;
    for (int d = 0; d < c.headDim; ++d)
      x += static_cast<double>(element<T>(id, kQuery, (int64_t{position} * numHeads + head) * c.headDim + d)) * element<C>(id, kKey, key * width + kvOffset + d);
    x *= c.scale;
    if (c.softCap > 0) x = c.softCap * tanh(x / c.softCap);
    if (c.slopes) x += static_cast<double>(c.slopes[head]) * (key - position);
    logits[key - lo] = static_cast<float>(x);
    top = fmax(top, x);
  }
  top = blockReduce(top, true, reduce);
  double sum = 0;
  for (int key = lo + threadIdx.x; key <= position; key += blockDim.x) sum += exp(logits[key - lo] - top);
  sum = blockReduce(sum, false, reduce) + (c.sinks ? exp(c.sinks[head] - top) : 0);
  for (int d = threadIdx.x; d < c.headDim; d += blockDim.x) {
    double x = 0;
    for (int key = lo; key <= position; ++key) x += exp(logits[key - lo] - top) * element<C>(id, kValue, key * width + kvOffset + d);
    row[d] = static_cast<float>(x / sum * c.valueScale);
  }
}

// The device's side of a case. run() may be called again and again.
class Batch {
 public:
  Batch(CudaStream& stream, const Case& c) : c_(c), stream_(stream), numHeads_(c.numKvHeads * c.group) {
    const int n = static_cast<int>(c.sequences.size());
    int pages = 0, longest = 1;
    for (const Sequence& s : c.sequences) pages += pagesOf(s.seqLen), longest = std::max(longest, s.seqLen), numTokens_ += s.queryLen;
    width_ = pagesOf(longest) + 1;
    numTokens_ += c.padding;
    const int64_t numBlocks = c.firstBlock + pages + 1;
    makeTables(n, pages);
    const int64_t size = elementSize(c.dtype), cacheSize = elementSize(c.cacheType()), qStride = int64_t{numHeads_} * c.headDim + c.qGap;
    cache_.emplace(stream, numBlocks * 2 * c.numKvHeads * kPageTokens * c.headDim * cacheSize);
    q_.emplace(stream, std::max<int64_t>(1, numTokens_ * qStride) * size);
    out_.emplace(stream, std::max<int64_t>(1, int64_t{numTokens_} * numHeads_ * c.headDim) * size);
    kvCache = tensorOf(cache_->ptr(), c.cacheType(), {numBlocks, 2, c.numKvHeads, kPageTokens, c.headDim});
    q = tensorOf(q_->ptr(), c.dtype, {numTokens_, numHeads_, c.headDim});
    q.strides[0] = qStride;
    out = tensorOf(out_->ptr(), c.dtype, {numTokens_, numHeads_, c.headDim});
    blockTable = tensorOf(table_->ptr(), DType::Int32, {n + 1, width_});
    seqRows = tensorOf(rows_->ptr(), DType::Int32, {n});
    seqLens = tensorOf(seqLens_->ptr(), DType::Int32, {n});
    queryStarts = tensorOf(starts_->ptr(), DType::Int32, {n + 1});
    dispatchTypes([&]<class T, class C>(T*, C*) {
      if (n > 0) fillCase<T, C><<<static_cast<unsigned>(n), 256, 0, stream.handle()>>>(device(), kvCache.ptr<C>(), q.ptr<T>());
    });
    KVASIR_CUDA(cudaGetLastError());
  }

  // Through the op, or (decode only, bfloat16) with an explicit plan.
  void launch(const attention::DecodeLaunch* plan = nullptr) {
    MaybeTensor slopes, sinks;
    if (c_.alibi) slopes = tensorOf(slopes_->ptr(), DType::Float32, {numHeads_});
    if (c_.sinks) sinks = tensorOf(sinks_->ptr(), DType::Float32, {numHeads_});
    if (plan == nullptr)
      return pagedAttention(stream_, out, q, kvCache, blockTable, seqRows, seqLens, queryStarts, scale(), c_.window, c_.softCap, slopes, sinks, c_.kScale(), c_.vScale());
    const auto a = attention::argumentsOf(out, q, kvCache, blockTable, seqRows, seqLens, queryStarts, scale(), c_.window, c_.softCap, slopes, sinks, c_.kScale(), c_.vScale());
    stream_.launch("decode", [&](cudaStream_t stream) { (c_.fp8 ? attention::decodeBFloat16Fp8 : attention::decodeBFloat16)(a, *plan, {stream, stream_.overlaps()}); });
  }
  // The bytes of out after one launch into poisoned memory.
  std::vector<char> run(const attention::DecodeLaunch* plan = nullptr) {
    KVASIR_CUDA(cudaMemsetAsync(out.data, 0xff, static_cast<size_t>(out.numel() * elementSize(c_.dtype)), stream_.handle()));
    launch(plan);
    std::vector<char> bytes = out_->read<char>();
    bytes.resize(static_cast<size_t>(out.numel() * elementSize(c_.dtype)));
    return bytes;
  }
  std::vector<float> reference() {
    if (numTokens_ == 0) return {};
    std::vector<int32_t> sequenceOf(static_cast<size_t>(numTokens_), -1);
    for (size_t s = 0; s < c_.sequences.size(); ++s)
      for (int j = 0; j < c_.sequences[s].queryLen; ++j) sequenceOf[static_cast<size_t>(hostStarts_[s] + j)] = static_cast<int>(s);
    const Buffer sequences(stream_, sequenceOf), result(stream_, out.numel() * int64_t{sizeof(float)});
    dispatchTypes([&]<class T, class C>(T*, C*) {
      const int bytes = width_ * kPageTokens * static_cast<int>(sizeof(float));
      KVASIR_CUDA(cudaFuncSetAttribute((referenceKernel<T, C>), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
      const dim3 grid(static_cast<unsigned>(numTokens_), static_cast<unsigned>(numHeads_));
      referenceKernel<T, C><<<grid, 128, static_cast<size_t>(bytes), stream_.handle()>>>(device(), sequences.ptr<int32_t>(), result.ptr<float>());
    });
    KVASIR_CUDA(cudaGetLastError());
    return result.read<float>();
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(c_.headDim)); }
  int start(size_t sequence) const { return hostStarts_[sequence]; }
  int64_t rowElements() const { return int64_t{numHeads_} * c_.headDim; }

  Tensor out, q, kvCache, blockTable, seqRows, seqLens, queryStarts;

 private:
  // Calls body with null pointers to the types of queries and cache.
  template <class F>
  void dispatchTypes(F&& body) {
    dispatchFloat(c_.dtype, [&](auto* null) {
      if (c_.fp8) body(null, static_cast<__nv_fp8_e4m3*>(nullptr));
      else body(null, null);
    });
  }

  static int pagesOf(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

  DeviceCase device() const {
    return {ids_->ptr<int32_t>(), queryLens_->ptr<int32_t>(), seqLens_->ptr<int32_t>(), starts_->ptr<int32_t>(), rows_->ptr<int32_t>(), table_->ptr<int32_t>(),
            static_cast<int>(c_.sequences.size()), c_.numKvHeads, c_.group, c_.headDim, width_, c_.window, q.strides[0], static_cast<float>(scale() * c_.kScale()),
            static_cast<float>(c_.vScale()), static_cast<float>(c_.softCap), c_.alibi ? slopes_->ptr<float>() : nullptr, c_.sinks ? sinks_->ptr<float>() : nullptr};
  }

  // Rows of the block table backwards, row 0 unused; blocks in a shuffled order, and the first one, all NaN, where no key is attended.
  void makeTables(int n, int pages) {
    std::vector<int32_t> blocks(static_cast<size_t>(pages)), table(static_cast<size_t>((n + 1) * width_), static_cast<int32_t>(c_.firstBlock)), rows, ids, queryLens, lens;
    for (int i = 0; i < pages; ++i) blocks[static_cast<size_t>(i)] = static_cast<int32_t>(c_.firstBlock) + 1 + i;
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(7));
    hostStarts_ = {0};
    size_t next = 0;
    for (int i = 0; i < n; ++i) {
      const Sequence& s = c_.sequences[static_cast<size_t>(i)];
      const int first = c_.window ? std::max(0, s.seqLen - s.queryLen - c_.window + 1) : 0;
      rows.push_back(n - i);
      for (int p = 0; p < pagesOf(s.seqLen); ++p, ++next)
        if ((p + 1) * kPageTokens > first && s.queryLen > 0) table[static_cast<size_t>((n - i) * width_ + p)] = blocks[next];
      ids.push_back(s.id >= 0 ? s.id : i);
      queryLens.push_back(s.queryLen);
      lens.push_back(s.seqLen);
      hostStarts_.push_back(hostStarts_.back() + s.queryLen);
    }
    std::vector<float> slopes, sinks;
    for (int h = 0; h < numHeads_; ++h) slopes.push_back(std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(numHeads_))), sinks.push_back(static_cast<float>(h % 5) - 1.5f);
    table_.emplace(stream_, table), rows_.emplace(stream_, rows), ids_.emplace(stream_, ids), queryLens_.emplace(stream_, queryLens);
    seqLens_.emplace(stream_, lens), starts_.emplace(stream_, hostStarts_), slopes_.emplace(stream_, slopes), sinks_.emplace(stream_, sinks);
  }

  Case c_;
  CudaStream& stream_;
  int numHeads_, numTokens_ = 0, width_ = 0;
  std::vector<int32_t> hostStarts_;
  std::optional<Buffer> cache_, q_, out_, table_, rows_, ids_, queryLens_, seqLens_, starts_, slopes_, sinks_;
};

}  // namespace kvasir::cuda::bench
