// Which kernel computes a linear layer. A pure function of the problem, so that it can be read and checked by itself.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cuda {

enum class GemmPath {
  Gemv,        // one output feature per warp or group of warps: reads the weight once at the speed of the memory; up to 2 rows of x
  CublasLt,    // the library's kernels, chosen per shape
  TensorCore,  // own mma.sync kernel: without the library, and in its place where outputs are not aligned
  Fma,         // own float32 multiply-add kernel: any shape, stride and alignment
};

// From 4 rows on the activations, which every warp reads again, cost a GEMV more than it gains.
inline constexpr int64_t kGemvRows = 2;

// out[m, n] = x[m, k] weight[n, k]^T.
//   aligned: x and weight start at 16 bytes and so does each of their rows, and k is a multiple of 16 bytes of elements.
//   haveCublasLt: the library is loaded and the output is aligned as it wants.
//   batchInvariant: a row's result must not depend on m: one path for every m (see GemmOptions).
constexpr GemmPath chooseGemm(int64_t m, int64_t n, int64_t k, DType dtype, bool aligned, bool haveCublasLt, bool batchInvariant) {
  if (!aligned || n == 0 || k == 0) return GemmPath::Fma;
  const bool half = dtype != DType::Float32;
  // The library's float32 kernels slice k in ways that differ from one to the next, hence not for float32.
  if (batchInvariant) return !half ? GemmPath::Fma : haveCublasLt ? GemmPath::CublasLt : GemmPath::TensorCore;
  if (m <= kGemvRows) return GemmPath::Gemv;
  if (haveCublasLt) return GemmPath::CublasLt;
  return half ? GemmPath::TensorCore : GemmPath::Fma;
}

// Warps that share one output feature in the GEMV: about four 16-byte loads per lane, which all fit the ring of registers and so are under
// way before the kernel must wait for x; and enough warps to fill the device when there are few features. Independent of m, so one and
// two rows are summed in the same order.
constexpr int gemvWarps(int64_t n, int64_t k, int64_t elementBytes) {
  if (n >= 65536) return 1;
  const int64_t loadsPerLane = (k * elementBytes + 511) / 512;
  int warps = loadsPerLane > 16 ? 8 : loadsPerLane > 8 ? 4 : loadsPerLane > 4 ? 2 : 1;
  while (warps < 8 && warps < loadsPerLane && n * warps < 4096) warps *= 2;
  return warps;
}

static_assert(chooseGemm(1, 4096, 4096, DType::BFloat16, true, true, false) == GemmPath::Gemv);
static_assert(chooseGemm(3, 4096, 4096, DType::BFloat16, true, true, false) == GemmPath::CublasLt);
static_assert(chooseGemm(3, 4096, 4096, DType::BFloat16, true, false, false) == GemmPath::TensorCore);
static_assert(chooseGemm(3, 4096, 4096, DType::Float32, true, false, false) == GemmPath::Fma);
static_assert(chooseGemm(1, 4096, 4095, DType::BFloat16, false, true, false) == GemmPath::Fma);
static_assert(chooseGemm(1, 4096, 4096, DType::BFloat16, true, true, true) == chooseGemm(900, 4096, 4096, DType::BFloat16, true, true, true));
static_assert(gemvWarps(6144, 4096, 2) == 4 && gemvWarps(4096, 14336, 2) == 8 && gemvWarps(128256, 4096, 2) == 1 && gemvWarps(16384, 2048, 2) == 2);
static_assert(gemvWarps(2048, 2048, 2) == 2 && gemvWarps(2048, 8192, 2) == 8 && gemvWarps(512, 2048, 2) == 8 && gemvWarps(64, 64, 2) == 1);

}  // namespace kvasir::cuda
