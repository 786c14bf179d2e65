#include <cstdint>

#include "core/dtype.h"
#include "cpu/norm_rows.h"

namespace kvasir::cpu {
namespace {
#include "cpu/norm_row.inc"
}
namespace avx2 {
#include "cpu/norm_entry.inc"
}
}  // namespace kvasir::cpu
