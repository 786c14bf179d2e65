#include "core/storage.h"

#include <utility>

#include "core/stream.h"

namespace kvasir {

Storage::Storage(std::shared_ptr<Stream> stream, int64_t bytes, std::shared_ptr<StorageCounters> counters)
    : stream_(std::move(stream)), counters_(std::move(counters)), bytes_(bytes) {
  data_ = static_cast<char*>(stream_->allocate(bytes));
  counters_->count += 1;
  counters_->bytes += bytes_;
}

Storage::~Storage() {
  stream_->deallocate(data_, bytes_);
  counters_->count -= 1;
  counters_->bytes -= bytes_;
}

}  // namespace kvasir
