// From the int32 words of checkpoints to canonical rows, and from those to the packed order.
#include "cpu/quant_pack.h"

#include <algorithm>
#include <cstring>

#include "core/pack_format.h"
#include "cpu/quant.h"

namespace kvasir::cpu {

namespace {

constexpr int64_t kGrain = 16 << 10;  // elements that a thread takes at least

int64_t rowGrain(int64_t rowElements) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, rowElements)); }

// Even nibbles into the low half, odd ones into the high half.
uint32_t int4Word(uint32_t w) {
  uint32_t even = w & 0x0f0f0f0fu, odd = (w >> 4) & 0x0f0f0f0fu;
  even = (even | even >> 4) & 0x00ff00ffu;
  odd = (odd | odd >> 4) & 0x00ff00ffu;
  return ((even | even >> 8) & 0xffffu) | (odd | odd >> 8) << 16;
}
uint32_t int8Word(uint32_t w) { return w ^ 0x80808080u; }

template <class Map>
void packRows(const char* source, int64_t rowBytes, int64_t rows, int64_t usedBytes, uint32_t* target, Map map) {
  const int64_t whole = usedBytes / 4, rest = usedBytes % 4, words = whole + (rest > 0);
  if (rows < kQuantRows) std::fill(target, target + words * kQuantRows, map(0));
  constexpr int64_t kLine = 16;  // one cache line of each row at a time
  for (int64_t w0 = 0; w0 < whole; w0 += kLine)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t w = w0; w < std::min(whole, w0 + kLine); ++w) {
        uint32_t word;
        std::memcpy(&word, source + r * rowBytes + w * 4, 4);
        target[w * kQuantRows + r] = map(word);
      }
  if (!rest) return;
  for (int64_t r = 0; r < rows; ++r) {
    uint32_t word = 0;
    std::memcpy(&word, source + r * rowBytes + whole * 4, static_cast<size_t>(rest));
    target[whole * kQuantRows + r] = map(word);
  }
}

// Of every four words, the low halves before the high halves.
void splitHalves(uint32_t* target, int64_t words) {
  for (uint32_t *w = target, *end = target + words * kQuantRows; w < end; w += 4) {
    const uint32_t a = w[0], b = w[1], c = w[2], d = w[3];
    w[0] = (a & 0xffffu) | b << 16, w[1] = (c & 0xffffu) | d << 16;
    w[2] = a >> 16 | (b & 0xffff0000u), w[3] = c >> 16 | (d & 0xffff0000u);
  }
}

template <class T>
void packGroups(const T* source, int64_t rows, int64_t groups, T* target) {
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t r = 0; r < kQuantRows; ++r) target[g * kQuantRows + r] = r < rows ? source[r * groups + g] : T{};
}

void packWeight(Pool& pool, QuantWeight kind, const Tensor& weight, int64_t k) {
  const int64_t rowBytes = weight.dim(1), bytes = rowBytes * kQuantRows;
  pool.run(weight.dim(0) / kQuantRows, [&](int64_t b, int thread) {
    void* copy = pool.scratch(thread, bytes);
    char* block = weight.ptr<char>() + b * bytes;
    std::memcpy(copy, block, static_cast<size_t>(bytes));
    packQuantRows(kind, copy, rowBytes, kQuantRows, k, reinterpret_cast<uint32_t*>(block));
  });
}

void packBeside(Pool& pool, const Tensor& values) {
  const int64_t groups = values.dim(1), size = elementSize(values.dtype), bytes = groups * kQuantRows * size;
  if (groups == 1) return;
  pool.run(values.dim(0) / kQuantRows, [&](int64_t b, int thread) {
    void* copy = pool.scratch(thread, bytes);
    char* block = values.ptr<char>() + b * bytes;
    std::memcpy(copy, block, static_cast<size_t>(bytes));
    packQuantGroups(copy, kQuantRows, groups, size, block);
  });
}

// The nibble of AWQ words that holds output n.
constexpr int64_t awqNibble(int64_t n) { return n % 8 / 2 + n % 2 * 4; }

// Input k of output n.
uint32_t nibbleOf(PackFormat format, const uint32_t* source, int64_t columns, int64_t n, int64_t k) {
  if (format == PackFormat::Compressed) return source[n * columns + k / 8] >> (k % 8 * 4) & 15u;
  if (format != PackFormat::Awq) return source[k / 8 * columns + n] >> (k % 8 * 4) & 15u;
  return source[k * columns + n / 8] >> (awqNibble(n) * 4) & 15u;
}

// In tiles, so that a cache line of a source that goes by inputs is read once for all the outputs in it.
void repackRows(PackFormat format, const uint32_t* source, int64_t columns, int64_t row0, int64_t row1, int64_t bytes, uint8_t* out) {
  constexpr int64_t kTile = 64;
  for (int64_t b0 = 0; b0 < bytes; b0 += kTile)
    for (int64_t n = row0; n < row1; ++n)
      for (int64_t b = b0; b < std::min(bytes, b0 + kTile); ++b)
        out[n * bytes + b] = static_cast<uint8_t>(nibbleOf(format, source, columns, n, 2 * b) | nibbleOf(format, source, columns, n, 2 * b + 1) << 4);
}

}  // namespace

void packQuantRows(QuantWeight kind, const void* source, int64_t rowBytes, int64_t rows, int64_t k, uint32_t* target) {
  const char* from = static_cast<const char*>(source);
  switch (kind) {
    case QuantWeight::Int4: return packRows(from, rowBytes, rows, k / 2, target, int4Word);
    case QuantWeight::Int8: return packRows(from, rowBytes, rows, k, target, int8Word);
    case QuantWeight::Fp8:
      packRows(from, rowBytes, rows, k, target, [](uint32_t w) { return w; });
      return splitHalves(target, (k + 3) / 4);
  }
}

void packQuantGroups(const void* source, int64_t rows, int64_t groups, int64_t elementBytes, void* target) {
  if (elementBytes == 4) return packGroups(static_cast<const uint32_t*>(source), rows, groups, static_cast<uint32_t*>(target));
  if (elementBytes == 2) return packGroups(static_cast<const uint16_t*>(source), rows, groups, static_cast<uint16_t*>(target));
  packGroups(static_cast<const uint8_t*>(source), rows, groups, static_cast<uint8_t*>(target));
}

void packInt4(Pool& pool, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros) {
  packWeight(pool, QuantWeight::Int4, weight, weight.dim(1) * 2);
  packBeside(pool, scales);
  if (zeros) packBeside(pool, *zeros);
}

void packInt8(Pool& pool, const Tensor& weight, const Tensor& scales) {
  packWeight(pool, QuantWeight::Int8, weight, weight.dim(1));
  packBeside(pool, scales);
}

void packFp8(Pool& pool, const Tensor& weight) { packWeight(pool, QuantWeight::Fp8, weight, weight.dim(1)); }

void repackInt4(Pool& pool, const Tensor& out, const Tensor& source, int64_t format) {
  const int64_t bytes = out.dim(1);
  pool.forRange(out.dim(0), rowGrain(bytes), [&](int64_t begin, int64_t end, int) {
    repackRows(static_cast<PackFormat>(format), source.ptr<const uint32_t>(), source.dim(1), begin, end, bytes, out.ptr<uint8_t>());
  });
}

void repackInt8(Pool& pool, const Tensor& out, const Tensor& source, int64_t format) {
  const int64_t k = out.dim(1), columns = source.dim(1);
  const auto* words = source.ptr<const uint32_t>();
  const bool rowMajor = static_cast<PackFormat>(format) == PackFormat::Compressed;
  pool.forRange(out.dim(0), rowGrain(k), [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t i = 0; i < k; ++i) {
        const uint32_t word = rowMajor ? words[n * columns + i / 4] : words[i / 4 * columns + n];
        out.ptr<int8_t>()[n * k + i] = static_cast<int8_t>(static_cast<int>(word >> (i % 4 * 8) & 255u) - 128);
      }
  });
}

void unpackZeros(Pool& pool, const Tensor& out, const Tensor& source, int64_t format) {
  const int64_t groups = out.dim(1), columns = source.dim(1);
  const auto kind = static_cast<PackFormat>(format);
  const auto* words = source.ptr<const uint32_t>();
  pool.forRange(out.dim(0), rowGrain(groups), [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t nibble = kind == PackFormat::Awq ? awqNibble(n) : n % 8;
        const uint32_t word = kind == PackFormat::Compressed ? words[n / 8 * columns + g] : words[g * columns + n / 8];
        out.ptr<uint8_t>()[n * groups + g] = static_cast<uint8_t>((word >> (nibble * 4) & 15u) + (kind == PackFormat::Gptq ? 1u : 0u));
      }
  });
}

}  // namespace kvasir::cpu
