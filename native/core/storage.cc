#include "core/storage.h"

#include <sys/mman.h>

#include <utility>

#include "core/error.h"

namespace kvasir {

namespace {
constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;
}  // namespace

Storage::Storage(std::shared_ptr<Stream> stream, int64_t bytes, std::shared_ptr<StorageCounters> counters)
    : stream_(std::move(stream)), counters_(std::move(counters)), bytes_(bytes) {
  // mmap: zero pages on first touch (by the thread that will use them), and the memory goes back to the system when freed.
  // 64 spare bytes let vector kernels read past the last element.
  mapped_ = (bytes + 64 + kPage - 1) / kPage * kPage;
  void* p = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail(kMemoryError, "could not allocate %lld bytes of host memory", static_cast<long long>(bytes));
#ifdef MADV_HUGEPAGE
  if (mapped_ >= 2 * kHugePage) madvise(p, static_cast<size_t>(mapped_), MADV_HUGEPAGE);
#endif
  data_ = static_cast<char*>(p);
  counters_->count += 1;
  counters_->bytes += bytes_;
}

Storage::~Storage() {
  munmap(data_, static_cast<size_t>(mapped_));
  counters_->count -= 1;
  counters_->bytes -= bytes_;
}

}  // namespace kvasir
