// How the CPU backend arranges one page: 16 tokens of one kv head, headDim values each.
// float32 and float16:  K [headDim][16 tokens]            V [16 tokens][headDim]
// bfloat16 ("paired"):  K [headDim / 2][16 tokens][2]     V [8 token pairs][headDim][2]
// float8_e4m3:          as bfloat16, which it is turned into before use (attention_fp8.h)
// so that one vector load holds the same (pair of) head dimension(s) of 16 keys, or 16 columns of one (pair of) token(s), which is
// what a multiply-add, or vdpbf16ps, consumes. The arrangement does not depend on the instruction set.
// A cache is [numBlocks, 2 (K then V), numKvHeads, 16, headDim] in sizes; nothing outside cpu/ may look inside a page.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace kvasir::cpu {

inline constexpr int64_t kPageTokens = 16;

constexpr bool pairedPages(DType cache) { return cache == DType::BFloat16 || cache == DType::Float8E4M3; }

// Element index of (token, d) inside a K page and inside a V page.
constexpr int64_t keyIndex(bool paired, int64_t token, int64_t d) {
  return paired ? (d / 2 * kPageTokens + token) * 2 + d % 2 : d * kPageTokens + token;
}
constexpr int64_t valueIndex(bool paired, int64_t headDim, int64_t token, int64_t d) {
  return paired ? (token / 2 * headDim + d) * 2 + token % 2 : token * headDim + d;
}

}  // namespace kvasir::cpu
