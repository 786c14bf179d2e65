// Attention without instruction-set flags, on the compiler's vectors of 4 floats (SSE2, NEON, or scalar code).
#include "cpu/attention_split.h"

namespace kvasir::cpu {

namespace {

#include "cpu/attention_kernel.inc"

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

KVASIR_INLINE Float4 blend(Int4 mask, Float4 a, Float4 b) { return (Float4)(((Int4)a & mask) | ((Int4)b & ~mask)); }

struct Simd {
  using F = Float4;
  static constexpr int W = 4, kRows = 2, kPages = 1, kColumns = 4;
  KVASIR_INLINE F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  KVASIR_INLINE void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  KVASIR_INLINE F set1(float x) { return F{x, x, x, x}; }
  KVASIR_INLINE F add(F a, F b) { return a + b; }
  KVASIR_INLINE F sub(F a, F b) { return a - b; }
  KVASIR_INLINE F mul(F a, F b) { return a * b; }
  KVASIR_INLINE F div(F a, F b) { return a / b; }
  KVASIR_INLINE F fma(F a, F b, F c) { return a * b + c; }
  KVASIR_INLINE F max(F a, F b) { return blend(a > b, a, b); }
  KVASIR_INLINE F iota() { return F{0, 1, 2, 3}; }
  KVASIR_INLINE F pick(F x, F limit, F a, F b) { return blend(x < limit, a, b); }
  KVASIR_INLINE F keep(F x, int lo, int hi, F fill) {
    const Int4 lane{0, 1, 2, 3}, from{lo, lo, lo, lo}, to{hi, hi, hi, hi};
    return blend((lane >= from) & (lane < to), x, fill);
  }
  KVASIR_INLINE F exp2(F x);
  KVASIR_INLINE float reduceMax(F x) {
    const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
  }
  KVASIR_INLINE float reduceAdd(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
};

Simd::F Simd::exp2(F x) {  // below 2^-126 the result stays there: as good as zero
  x = max(x, set1(-126.0f));
  Int4 n = __builtin_convertvector(x, Int4);               // towards zero
  n += __builtin_convertvector(n, F) > x;                  // a true lane is -1: floor
  const F fraction = x - __builtin_convertvector(n, F);
  return (F)((Int4)exp2Fraction<Simd>(fraction) + (n << 23));
}

struct Float32 {
  static constexpr int kStep = 1, kBytes = 4, kABytes = 4;
  using A = Float4;
  using B = Float4;
  KVASIR_INLINE B load(const char* p) { return Simd::load(reinterpret_cast<const float*>(p)); }
  KVASIR_INLINE A broadcast(const char* p) { return Simd::set1(*reinterpret_cast<const float*>(p)); }
  KVASIR_INLINE Float4 mac(Float4 acc, A a, B b) { return a * b + acc; }
  KVASIR_INLINE void storeWeights(float* row, int key, Float4 p) { Simd::store(row + key, p); }
};

struct Float16 : Float32 {
  static constexpr int kBytes = 2;
  KVASIR_INLINE B load(const char* p) {
    const f16* x = reinterpret_cast<const f16*>(p);
    return B{toFloat(x[0]), toFloat(x[1]), toFloat(x[2]), toFloat(x[3])};
  }
};

struct BFloat16 {
  static constexpr int kStep = 2, kBytes = 4, kABytes = 4;
  struct A {
    Float4 first, second;
  };
  struct B {
    Float4 first, second;
  };
  KVASIR_INLINE B load(const char* p) {  // pairs of bfloat16, widened one by one: no assumption about byte order
    const bf16* x = reinterpret_cast<const bf16*>(p);
    return {Float4{toFloat(x[0]), toFloat(x[2]), toFloat(x[4]), toFloat(x[6])}, Float4{toFloat(x[1]), toFloat(x[3]), toFloat(x[5]), toFloat(x[7])}};
  }
  KVASIR_INLINE A broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {Simd::set1(x[0]), Simd::set1(x[1])};
  }
  KVASIR_INLINE Float4 mac(Float4 acc, const A& a, const B& b) { return a.second * b.second + (a.first * b.first + acc); }
  KVASIR_INLINE B first(const B& b) { return {b.first, Simd::set1(0.0f)}; }
  KVASIR_INLINE B second(const B& b) { return {Simd::set1(0.0f), b.second}; }
  KVASIR_INLINE void storeWeights(float* row, int key, Float4 p) { Simd::store(row + key, p); }
};

}  // namespace

AttentionKernels portableAttention(DType cache) {
  switch (cache) {
    case DType::Float32: return Attend<Simd, Float32>::kernels(false);
    case DType::Float16: return Attend<Simd, Float16>::kernels(false);
    default: return Attend<Simd, BFloat16>::kernels(false);
  }
}

}  // namespace kvasir::cpu
