#include "core/file_view.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace kvasir {

void readFully(int fd, char* to, int64_t bytes, int64_t offset) {
  while (bytes > 0) {
    const ssize_t got = pread(fd, to, static_cast<size_t>(std::min<int64_t>(bytes, 1 << 30)), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      fail(kCheckpointError, "checkpoint file ended or failed: %lld bytes missing at offset %lld (%s)", static_cast<long long>(bytes),
           static_cast<long long>(offset), got < 0 ? std::strerror(errno) : "end of file");
    to += got;
    bytes -= got;
    offset += got;
  }
}

}  // namespace kvasir
