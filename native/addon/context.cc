#include "addon/context.h"

#include <cstring>
#include <utility>

#include "addon/cuda.h"
#include "cpu/stream.h"

namespace kvasir::addon {

Context::Context(napi_env env) { completions_->open(env); }

Context::~Context() { shutdown(); }

void Context::shutdown() {
  completions_->close();
  communicators_.shutdown();
  for (auto& stream : streams_)
    if (stream) stream->shutdown();
  storages_.clear();
}

Context& Context::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  if (!data) fail(kNativeError, "the addon's environment is gone");
  return *static_cast<Context*>(data);
}

void Context::setTable(napi_env env, napi_value table) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, table, &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_int32_array)
    fail(kNativeError, "setTable expects an Int32Array");
  napi_ref ref = nullptr;
  napi_create_reference(env, table, 1, &ref);
  if (tableRef_) napi_delete_reference(env, tableRef_);
  tableRef_ = ref;
  table_ = static_cast<const int32_t*>(data);
  rows_ = static_cast<int32_t>(length / kRowWords);
}

Storage& Context::storageOf(int32_t row) const {
  if (row < 0 || row >= rows_) fail(kTensorError, "tensor row %d is outside the table", row);
  const int32_t id = table_[static_cast<int64_t>(row) * kRowWords];
  if (id < 0 || id >= static_cast<int32_t>(storages_.size()) || !storages_[static_cast<size_t>(id)])
    fail(kDisposedError, "tensor row %d refers to freed memory", row);
  return *storages_[static_cast<size_t>(id)];
}

Tensor Context::tensor(int32_t row, Stream** stream) const {
  Storage& storage = storageOf(row);
  const int32_t* w = table_ + static_cast<int64_t>(row) * kRowWords;
  double offset;
  std::memcpy(&offset, w + 4, sizeof offset);
  Tensor t;
  if (w[1] < 0 || w[1] >= kNumDTypes || w[2] < 0 || w[2] > kMaxRank) fail(kTensorError, "tensor row %d is not valid", row);
  t.dtype = static_cast<DType>(w[1]);
  t.rank = w[2];
  t.layout = static_cast<Layout>(w[3]);
  int64_t last = 0;
  bool empty = false;
  for (int i = 0; i < t.rank; ++i) {
    t.dims[i] = w[6 + i];
    t.strides[i] = w[11 + i];
    if (t.dims[i] < 0 || t.strides[i] < 0) fail(kTensorError, "tensor row %d has a negative size", row);
    if (t.dims[i] == 0) empty = true;
    last += (t.dims[i] - 1) * t.strides[i];
  }
  const int64_t begin = static_cast<int64_t>(offset);
  const int64_t end = empty ? begin : begin + (last + 1) * elementSize(t.dtype);
  if (begin < 0 || end > storage.bytes())
    fail(kTensorError, "tensor row %d reaches byte %lld of a storage of %lld bytes", row, static_cast<long long>(end),
         static_cast<long long>(storage.bytes()));
  t.data = storage.data() + begin;
  if (stream && !*stream) *stream = &storage.stream();
  return t;
}

int32_t Context::createStream(Device device, int32_t threads, int32_t ordinal) {
  if (device == Device::Cuda) {
    streams_.push_back(createCudaStream(ordinal));
  } else {
    if (threads < 1 || threads > 1024) fail(kNativeError, "a CPU stream needs 1 to 1024 threads, got %d", threads);
    streams_.push_back(std::make_shared<cpu::CpuStream>(threads));
  }
  return static_cast<int32_t>(streams_.size()) - 1;
}

const std::shared_ptr<Stream>& Context::sharedStream(int32_t id) const {
  if (id < 0 || id >= static_cast<int32_t>(streams_.size()) || !streams_[static_cast<size_t>(id)])
    fail(kDisposedError, "stream %d is closed", id);
  return streams_[static_cast<size_t>(id)];
}

void Context::destroyStream(int32_t id) {
  stream(id).shutdown();
  streams_[static_cast<size_t>(id)].reset();  // storages that still point to it keep it; it takes no more work
}

int32_t Context::allocate(int32_t streamId, int64_t bytes) {
  stream(streamId);
  if (bytes < 0) fail(kMemoryError, "cannot allocate %lld bytes", static_cast<long long>(bytes));
  auto storage = std::make_shared<Storage>(streams_[static_cast<size_t>(streamId)], bytes, counters_);
  if (!freeStorages_.empty()) {
    const int32_t id = freeStorages_.back();
    freeStorages_.pop_back();
    storages_[static_cast<size_t>(id)] = std::move(storage);
    return id;
  }
  storages_.push_back(std::move(storage));
  return static_cast<int32_t>(storages_.size()) - 1;
}

void Context::release(int32_t storageId) {
  if (storageId < 0 || storageId >= static_cast<int32_t>(storages_.size()) || !storages_[static_cast<size_t>(storageId)])
    fail(kDisposedError, "storage %d was freed before", storageId);
  std::shared_ptr<Storage> storage = std::move(storages_[static_cast<size_t>(storageId)]);
  freeStorages_.push_back(storageId);
  Stream& stream = storage->stream();
  stream.releaseLater(std::move(storage));
}

napi_value Context::fence(napi_env env, Stream& stream, std::shared_ptr<std::vector<char>> bytes) {
  napi_value promise;
  napi_deferred deferred;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) fail(kNativeError, "could not create a promise");
  completions_->began(env);
  stream.fence([completions = completions_, deferred, bytes = std::move(bytes)](std::exception_ptr error) {
    Completion c;
    c.deferred = deferred;
    c.error = std::move(error);
    c.bytes = bytes;
    completions->post(std::move(c));
  });
  return promise;
}

}  // namespace kvasir::addon
