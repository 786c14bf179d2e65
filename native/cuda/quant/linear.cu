// Which kernels compute a linear layer with quantized weights.
#include <algorithm>

#include "cuda/access.cuh"
#include "cuda/gemm/context.h"
#include "cuda/kernels.h"
#include "cuda/quant/args.h"

namespace kvasir::cuda {

namespace {

// The library's kernels read the weight more slowly than launchQuantSkinny up to here.
constexpr int64_t kUnroundedRows = 2;

struct Problem {
  QuantArgs args;
  DType dtype;
  bool tensorCores;  // aligned, and of 16 bits
};

Problem makeProblem(QuantKind kind, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                    const MaybeTensor& bias, int64_t blockN, int64_t group) {
  Problem p{};
  const int64_t m = x.dims[0], n = out.dims[1], k = x.dims[1];
  // The stride of a single row says nothing.
  const int64_t xStride = m > 1 ? x.strides[0] : k, outStride = m > 1 ? out.strides[0] : n;
  const int64_t rowBytes = weight.dims[1];
  p.args.gemm = {x.data, weight.data, bias ? bias->data : nullptr, out.data, m, n, k, xStride, rowBytes, outStride, bias && bias->dtype == DType::Float32,
                 out.dtype == DType::Float32};
  p.args.scales = scales.data;
  p.args.zeros = zeros ? zeros->ptr<uint8_t>() : nullptr;
  p.args.scaleType = scales.dtype;
  p.args.groups = static_cast<int>((k + group - 1) / group);
  p.args.group = static_cast<int>(std::min(group, k));
  p.args.blockN = static_cast<int>(std::min(blockN, n));
  p.dtype = x.dtype;
  const bool aligned = accessBytes({addressOf(x), addressOf(weight), xStride * elementSize(x.dtype), rowBytes}) == 16;
  const int64_t chunk = chunkInputs(kind);
  p.tensorCores = x.dtype != DType::Float32 && aligned && k % chunk == 0 && (p.args.groups == 1 || group % chunk == 0);
  return p;
}

// x is used as it is. In batch-invariant mode one kernel serves every number of tokens.
template <QuantKind kKind>
void multiply(CudaStream& stream, const char* name, Problem& p, const Tensor& weight) {
  const bool skinny = p.tensorCores && p.args.gemm.m <= kSkinnyRows && !stream.gemm().options().batchInvariant;
  if (skinny) {
    stream.flush();  // before it is asked what the kernel after that may do
    p.args.gemm.overlap = stream.mayReadEarly(weight);
  }
  stream.launch(name, [&](cudaStream_t s) {
    if (skinny) return launchQuantSkinny<kKind>(p.args, p.dtype, s);
    if (p.tensorCores) return launchQuantTile<kKind>(p.args, p.dtype, {s, stream.overlaps()});
    launchQuantFma(kKind, p.args, p.dtype, {s, stream.overlaps()});
  });
}

// Whether x may be rounded, and it is worth its while.
bool rounds(CudaStream& stream, const Problem& p, int64_t exactRows) {
  return p.tensorCores && p.args.groups == 1 && (p.args.gemm.m > exactRows || stream.gemm().options().batchInvariant);
}

// Memory for x rounded to 8 bits: the same for every call of a shape, so that a graph can be captured after one.
RoundedRows roundedRows(CudaStream& stream, const GemmArgs& a) {
  const int64_t codes = ceilDiv(a.m * a.k, 256) * 256;
  char* memory = static_cast<char*>(stream.scratch(codes + a.m * static_cast<int64_t>(sizeof(float))));
  return {memory, reinterpret_cast<float*>(memory + codes)};
}

// False, with nothing but the rounded x, if the library does not take it.
bool multiplyFp8(CudaStream& stream, const Problem& p, float fixedScale) {
  const GemmArgs& a = p.args.gemm;
  if (!stream.gemm().takesFp8(a)) return false;
  const RoundedRows rounded = roundedRows(stream, a);
  GemmArgs products = a;
  products.x = rounded.codes;
  products.xStride = a.k;
  products.bias = nullptr;
  bool done = false;
  stream.launch("linearFp8", [&](cudaStream_t s) {
    const Chain chain{s, stream.overlaps()};
    launchRoundRows(rounded, true, a.x, p.dtype, a.m, a.k, a.xStride, fixedScale, chain);
    done = stream.gemm().linearFp8(products);
    if (done) launchScaleProducts(p.args, rounded.scales, p.dtype, chain);
  });
  return done;
}

}  // namespace

void linearInt4(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& zeros,
                const MaybeTensor& bias, bool) {
  if (out.numel() == 0) return;
  Problem p = makeProblem(QuantKind::Int4, out, x, weight, scales, zeros, bias, 1, x.dims[1] / scales.dims[1]);
  multiply<QuantKind::Int4>(stream, "linearInt4", p, weight);
}

void linearInt8(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
                bool dynamicActivation) {
  if (out.numel() == 0) return;
  Problem p = makeProblem(QuantKind::Int8, out, x, weight, scales, std::nullopt, bias, 1, x.dims[1] / scales.dims[1]);
  if (!dynamicActivation || !rounds(stream, p, kSkinnyRows)) return multiply<QuantKind::Int8>(stream, "linearInt8", p, weight);
  const GemmArgs& a = p.args.gemm;
  const RoundedRows rounded = roundedRows(stream, a);
  stream.launch("linearInt8", [&](cudaStream_t s) {
    const Chain chain{s, stream.overlaps()};
    launchRoundRows(rounded, false, a.x, p.dtype, a.m, a.k, a.xStride, 0.0f, chain);
    launchInt8Gemm(p.args, rounded, p.dtype, chain);
  });
}

void linearFp8(CudaStream& stream, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& scales, const MaybeTensor& bias,
               int64_t blockN, int64_t blockK, int64_t activation, double inputScale) {
  if (out.numel() == 0) return;
  Problem p = makeProblem(QuantKind::Fp8, out, x, weight, scales, std::nullopt, bias, blockN, std::min(blockK, x.dims[1]));
  const bool mayRound = activation != 0 && rounds(stream, p, kUnroundedRows);
  if (mayRound && multiplyFp8(stream, p, activation == 2 ? static_cast<float>(inputScale) : 0.0f)) return;
  multiply<QuantKind::Fp8>(stream, "linearFp8", p, weight);
}

}  // namespace kvasir::cuda
