#include "cuda/loader.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/file_rows.h"
#include "cuda/check.h"
#include "cuda/convert.cuh"

namespace kvasir::cuda {

namespace {

constexpr int64_t kPieceBytes = 64 << 20;
constexpr int kReaders = 8;

// Splits [0, n) over threads; the first exception is thrown here.
template <class F>
void inParallel(int64_t n, int64_t grain, F&& body) {
  const int threads = static_cast<int>(std::clamp<int64_t>(n / std::max<int64_t>(1, grain), 1, kReaders));
  std::exception_ptr error;
  std::mutex mutex;
  const auto part = [&](int i) {
    try {
      body(n * i / threads, n * (i + 1) / threads);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(part, i);
  part(0);
  for (auto& t : others) t.join();
  if (error) std::rethrow_exception(error);
}

// One thread per element; rows of `out` lie outStride apart, those of `in` are dense.
template <class To, class From>
__global__ void convertRows(To* out, int64_t outStride, const From* in, int64_t columns, int64_t total) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < total; i += int64_t{gridDim.x} * blockDim.x)
    out[i / columns * outStride + i % columns] = convert<To>(toFloatDevice(in[i]));
}

template <class To>
void convertTo(cudaStream_t stream, To* out, int64_t outStride, const char* in, DType from, int64_t columns, int64_t total) {
  const int blocks = static_cast<int>(std::min<int64_t>((total + 255) / 256, 4096));
  switch (from) {
    case DType::Float32: convertRows<<<blocks, 256, 0, stream>>>(out, outStride, reinterpret_cast<const float*>(in), columns, total); break;
    case DType::Float16: convertRows<<<blocks, 256, 0, stream>>>(out, outStride, reinterpret_cast<const __half*>(in), columns, total); break;
    case DType::BFloat16: convertRows<<<blocks, 256, 0, stream>>>(out, outStride, reinterpret_cast<const __nv_bfloat16*>(in), columns, total); break;
    default: convertRows<<<blocks, 256, 0, stream>>>(out, outStride, reinterpret_cast<const __nv_fp8_e4m3*>(in), columns, total);
  }
  KVASIR_CUDA(cudaGetLastError());
}

}  // namespace

Loader::Loader(int device) : device_(device) {
  KVASIR_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  KVASIR_CUDA(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
  thread_ = std::thread([this] { loop(); });
}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
  for (Buffer& b : buffers_) {
    if (b.host) cudaFreeHost(b.host);
    if (b.device) cudaFree(b.device);
    if (b.done) cudaEventDestroy(b.done);
  }
  cudaEventDestroy(ready_);
  cudaStreamDestroy(stream_);
}

void Loader::push(LoadJob job, cudaStream_t after) {
  KVASIR_CUDA(cudaEventRecord(ready_, after));
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(job);
  }
  wake_.notify_one();
}

void Loader::drain() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return jobs_.empty() && !busy_; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Loader::loop() {
  cudaSetDevice(device_);
  for (;;) {
    LoadJob job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return !jobs_.empty() || stop_; });
      if (jobs_.empty()) return;
      job = jobs_.front();
      jobs_.pop_front();
      busy_ = true;
    }
    std::exception_ptr error;
    try {
      run(job);
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard lock(mutex_);
    if (jobs_.empty() || error) {
      const cudaError_t synced = cudaStreamSynchronize(stream_);
      if (!error && synced != cudaSuccess) error = std::make_exception_ptr(Error(kDeviceError, cudaGetErrorString(synced)));
    }
    if (error && !error_) error_ = error;
    busy_ = false;
    idle_.notify_all();
  }
}

// Cuts a job into pieces of at most kPieceBytes: whole rows, or parts of one long row.
void Loader::run(const LoadJob& job) {
  KVASIR_CUDA(cudaStreamWaitEvent(stream_, ready_));
  const int64_t size = elementSize(job.dtype), rows = job.out.dims[0], columns = job.out.dims[1];
  const int64_t most = kPieceBytes / size;
  if (columns >= most) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; c += most) piece(job, r, 1, c, std::min(most, columns - c));
  } else {
    const int64_t rowsPerPiece = std::max<int64_t>(1, most / std::max<int64_t>(1, columns));
    for (int64_t r = 0; r < rows; r += rowsPerPiece) piece(job, r, std::min(rowsPerPiece, rows - r), 0, columns);
  }
}

void Loader::piece(const LoadJob& job, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  Buffer& b = buffers_[next_];
  next_ ^= 1;
  if (!b.host) {
    KVASIR_CUDA(cudaMallocHost(reinterpret_cast<void**>(&b.host), kPieceBytes));
    KVASIR_CUDA(cudaEventCreateWithFlags(&b.done, cudaEventDisableTiming));
  } else {
    KVASIR_CUDA(cudaEventSynchronize(b.done));
  }
  const int64_t size = elementSize(job.dtype), rowBytes = columns * size;
  const int64_t start = job.byteOffset + (row * job.fileRowStride + column) * size;
  if (rows == 1 || job.fileRowStride == columns)
    inParallel(rows * rowBytes, 2 << 20, [&](int64_t begin, int64_t end) { readFully(job.fd, b.host + begin, end - begin, start + begin); });
  else
    inParallel(rows, (2 << 20) / rowBytes + 1, [&](int64_t begin, int64_t end) {
      const int64_t stride = job.fileRowStride * size;
      readRows(job.fd, b.host + begin * rowBytes, end - begin, rowBytes, start + begin * stride, stride, readsGaps(job.out.dims[0], rowBytes, stride));
    });
  const int64_t outSize = elementSize(job.out.dtype);
  char* to = job.out.ptr<char>() + (row * job.out.strides[0] + column) * outSize;
  if (job.dtype == job.out.dtype) {
    KVASIR_CUDA(cudaMemcpy2DAsync(to, static_cast<size_t>(std::max(rowBytes, job.out.strides[0] * size)), b.host, static_cast<size_t>(rowBytes),
                                  static_cast<size_t>(rowBytes), static_cast<size_t>(rows), cudaMemcpyHostToDevice, stream_));
  } else {
    if (!b.device) KVASIR_CUDA(cudaMalloc(reinterpret_cast<void**>(&b.device), kPieceBytes));
    KVASIR_CUDA(cudaMemcpyAsync(b.device, b.host, static_cast<size_t>(rows * rowBytes), cudaMemcpyHostToDevice, stream_));
    const int64_t total = rows * columns, stride = job.out.strides[0];
    switch (job.out.dtype) {
      case DType::Float32: convertTo(stream_, reinterpret_cast<float*>(to), stride, b.device, job.dtype, columns, total); break;
      case DType::Float16: convertTo(stream_, reinterpret_cast<__half*>(to), stride, b.device, job.dtype, columns, total); break;
      default: convertTo(stream_, reinterpret_cast<__nv_bfloat16*>(to), stride, b.device, job.dtype, columns, total);
    }
  }
  KVASIR_CUDA(cudaEventRecord(b.done, stream_));
}

}  // namespace kvasir::cuda
