#include "cpu/comm.h"

#include "cpu/comm_rows.h"
#include "cpu/isa.h"
#include "cpu/vec.h"

namespace kvasir::cpu {

namespace {

#include "cpu/comm_row.inc"

void portableRow(DType dtype, void* out, const void* const* parts, int count, int64_t begin, int64_t end) {
  sumOf(dtype, out, parts, count, begin, end);
}

SumRow chooseRow() {
#ifdef KVASIR_X86
  if (isa() >= Isa::Avx512) return avx512::sumRow;
  if (isa() >= Isa::Avx2) return avx2::sumRow;
#endif
  return portableRow;
}

}  // namespace

void sumParts(Pool& pool, DType dtype, void* out, const void* const* parts, int count, int64_t n) {
  const SumRow row = chooseRow();
  pool.forRange(n, 16384, [&](int64_t begin, int64_t end, int) { row(dtype, out, parts, count, begin, end); });
}

}  // namespace kvasir::cpu
