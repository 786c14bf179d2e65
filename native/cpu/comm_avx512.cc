#include "cpu/comm_rows.h"
#include "cpu/vec.h"

namespace kvasir::cpu {
namespace {
#include "cpu/comm_row.inc"
}
void avx512::sumRow(DType dtype, void* out, const void* const* parts, int count, int64_t begin, int64_t end) {
  sumOf(dtype, out, parts, count, begin, end);
}
}  // namespace kvasir::cpu
