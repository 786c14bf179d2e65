// Decode steps of whole models out of the ops of the CUDA backend, on the current GPU: what launching early (cuda/dependent_launch.cuh) and
// joining ops (cuda/pending.h) gain, and that neither changes a bit. Not part of the addon.
//   node scripts/build-cuda.js --benches && build/cuda/bench/chain_cuda_bench [check] [time]
// Both run by default. PASS or FAIL lines, exit status 1 if a check fails; then one JSON line per model, number of tokens and mode.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "bench/gemm_cuda_common.cuh"
#include "cuda/kernels.h"

using namespace kvasir;
using namespace kvasir::cuda;
using namespace kvasir::cuda::bench;

namespace {

struct Model {
  const char* name;
  int64_t layers, hidden, heads, kvHeads, headDim, intermediate, vocab;
};
constexpr Model kModels[] = {{"1B", 16, 2048, 32, 8, 64, 8192, 128256}, {"8B", 32, 4096, 32, 8, 128, 14336, 128256}};
constexpr Model kSmall = {"small", 4, 512, 8, 2, 64, 1408, 4096};
constexpr int64_t kContext = 192, kMaxPosition = 256;

struct Mode {
  const char* name;
  bool overlap, join;
  bool sharedMemory;  // the MLP's result lies where its input was, as in a planned arena: the activation cannot join
};
constexpr Mode kModes[] = {{"plain", false, false, false}, {"early", true, false, false}, {"joined", false, true, false}, {"early+joined", true, true, false},
                           {"early+joined, shared memory", true, true, true}};

Tensor view(void* data, DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  for (const int64_t size : dims) t.dims[t.rank++] = size;
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; stride *= t.dims[i--]) t.strides[i] = stride;
  return t;
}

// Device memory of one run; freed together.
class Arena {
 public:
  explicit Arena(CudaStream& stream) : stream_(stream) {}
  Tensor make(DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t = view(nullptr, dtype, dims);
    buffers_.push_back(std::make_unique<Buffer>(stream_, t.numel() * elementSize(dtype)));
    t.data = buffers_.back()->data();
    return t;
  }
  Tensor random(DType dtype, std::initializer_list<int64_t> dims, double scale) {
    const Tensor t = make(dtype, dims);
    cuda::fillRandom(stream_, t, ++seed_, scale);
    return t;
  }
  Tensor weight(int64_t n, int64_t k) {
    Tensor t = random(DType::BFloat16, {n, k}, 1.7 / std::sqrt(static_cast<double>(k)));
    packLinear(stream_, t);
    t.layout = Layout::Packed;
    return t;
  }
  template <class E>
  Tensor values(DType dtype, const std::vector<E>& from) {
    const Tensor t = make(dtype, {static_cast<int64_t>(from.size())});
    const char* bytes = reinterpret_cast<const char*>(from.data());
    stream_.write(t, std::vector<char>(bytes, bytes + from.size() * sizeof(E)));
    return t;
  }

 private:
  CudaStream& stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  int64_t seed_ = 0;
};

struct Layer {
  Tensor inputNorm, qkv, o, postNorm, gateUp, down, cache;
};

std::vector<char> bytesOf(CudaStream& stream, const Tensor& t) {
  std::vector<char> to(static_cast<size_t>(t.numel() * elementSize(t.dtype)));
  KVASIR_CUDA(cudaMemcpyAsync(to.data(), t.data, to.size(), cudaMemcpyDeviceToHost, stream.handle()));
  KVASIR_CUDA(cudaStreamSynchronize(stream.handle()));
  return to;
}

// One decode step of `tokens` sequences; every run of it computes the same.
class Decoder {
 public:
  Decoder(CudaStream& stream, const Model& m, int64_t tokens) : stream_(stream), arena_(stream), m_(m), tokens_(tokens) {
    const int64_t width = (m.heads + 2 * m.kvHeads) * m.headDim, pages = kContext / 16 + 1;
    table_ = arena_.random(DType::BFloat16, {m.vocab, m.hidden}, 1);
    for (int64_t i = 0; i < m.layers; ++i)
      layers_.push_back({arena_.random(DType::BFloat16, {m.hidden}, 2), arena_.weight(width, m.hidden), arena_.weight(m.hidden, m.heads * m.headDim),
                         arena_.random(DType::BFloat16, {m.hidden}, 2), arena_.weight(2 * m.intermediate, m.hidden), arena_.weight(m.hidden, m.intermediate),
                         arena_.random(DType::BFloat16, {tokens * pages, 2, m.kvHeads, 16, m.headDim}, 1)});
    norm_ = arena_.random(DType::BFloat16, {m.hidden}, 2);
    head_ = arena_.weight(m.vocab, m.hidden);
    cosSin_ = arena_.random(DType::Float32, {kMaxPosition, m.headDim}, 1);
    residual_ = arena_.make(DType::BFloat16, {tokens, m.hidden});
    normed_ = arena_.make(DType::BFloat16, {tokens, m.intermediate});  // room for `active_` too, see Mode::sharedMemory
    qkv_ = arena_.make(DType::BFloat16, {tokens, width});
    attended_ = arena_.make(DType::BFloat16, {tokens, m.heads, m.headDim});
    hidden_ = arena_.make(DType::BFloat16, {tokens, m.hidden});
    gateUp_ = arena_.make(DType::BFloat16, {tokens, 2 * m.intermediate});
    active_ = arena_.make(DType::BFloat16, {tokens, m.intermediate});
    logits_ = arena_.make(DType::Float32, {tokens, m.vocab});
    makeInputs(pages);
  }

  void run(const Mode& mode) {
    const Tensor normed = view(normed_.data, DType::BFloat16, {tokens_, m_.hidden});
    const Tensor active = mode.sharedMemory ? view(normed_.data, DType::BFloat16, {tokens_, m_.intermediate}) : active_;
    const auto op = [&](auto&& body) {
      body();
      if (!mode.join) stream_.flush();
    };
    op([&] { embedding(stream_, residual_, table_, ids_, 0); });
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& l = layers_[i];
      if (i == 0) op([&] { rmsNorm(stream_, normed, residual_, l.inputNorm, 1e-5, false); });
      else op([&] { addRmsNorm(stream_, normed, hidden_, residual_, l.inputNorm, 1e-5, false); });
      attend(l, normed, op);
      op([&] { linear(stream_, hidden_, view(attended_.data, DType::BFloat16, {tokens_, m_.heads * m_.headDim}), l.o, {}); });
      op([&] { addRmsNorm(stream_, normed, hidden_, residual_, l.postNorm, 1e-5, false); });
      op([&] { linear(stream_, gateUp_, normed, l.gateUp, {}); });
      op([&] { siluAndMul(stream_, active, gateUp_); });
      op([&] { linear(stream_, hidden_, active, l.down, {}); });
    }
    op([&] { addRmsNorm(stream_, normed, hidden_, residual_, norm_, 1e-5, false); });
    op([&] { linear(stream_, logits_, normed, head_, {}); });
    stream_.flush();
  }

  // Everything a step leaves behind: it is spoiled, and then `body` runs.
  std::vector<char> results(const std::function<void()>& body) {
    for (const Tensor* t : {&residual_, &normed_, &qkv_, &attended_, &hidden_, &gateUp_, &logits_})
      KVASIR_CUDA(cudaMemsetAsync(t->data, 0xff, static_cast<size_t>(t->numel() * elementSize(t->dtype)), stream_.handle()));
    for (const Layer& l : layers_) writeCache(l);
    body();
    std::vector<char> all;
    std::vector<Tensor> parts{residual_, qkv_, attended_, hidden_, gateUp_, logits_};
    for (const Layer& l : layers_) parts.push_back(l.cache);
    for (const Tensor& t : parts) {
      const std::vector<char> bytes = bytesOf(stream_, t);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

  double weightBytes() const {
    double bytes = static_cast<double>(head_.numel());
    for (const Layer& l : layers_) bytes += static_cast<double>(l.qkv.numel() + l.o.numel() + l.gateUp.numel() + l.down.numel());
    return 2 * bytes;
  }

 private:
  // Heads first .. first + count - 1 of the merged projection.
  Tensor heads(int64_t first, int64_t count) const {
    Tensor t = view(qkv_.ptr<char>() + first * m_.headDim * 2, DType::BFloat16, {tokens_, count, m_.headDim});
    t.strides[0] = qkv_.dims[1];
    return t;
  }

  void writeCache(const Layer& l) { kvCacheWrite(stream_, l.cache, heads(m_.heads, m_.kvHeads), heads(m_.heads + m_.kvHeads, m_.kvHeads), slots_, 1.0, 1.0); }

  template <class Op>
  void attend(const Layer& l, const Tensor& normed, Op&& op) {
    const Tensor q = heads(0, m_.heads), k = heads(m_.heads, m_.kvHeads);
    op([&] { linear(stream_, qkv_, normed, l.qkv, {}); });
    op([&] { rope(stream_, positions_, q, k, cosSin_, true); });
    op([&] { writeCache(l); });
    op([&] { pagedAttention(stream_, attended_, q, l.cache, blockTable_, rows_, lens_, starts_, 0.125, 0, 0, {}, {}, 1.0, 1.0); });
  }

  void makeInputs(int64_t pages) {
    std::vector<int32_t> ids, positions, blocks, rows, lens, starts{0};
    std::vector<int64_t> slots;
    for (int32_t i = 0; i < tokens_; ++i) {
      ids.push_back(17 + 31 * i);
      positions.push_back(static_cast<int32_t>(kContext) + i);
      for (int64_t p = 0; p < pages; ++p) blocks.push_back(static_cast<int32_t>(i * pages + p));
      rows.push_back(i);
      lens.push_back(static_cast<int32_t>(kContext) + 1);
      starts.push_back(i + 1);
      slots.push_back((i * pages + kContext / 16) * 16 + kContext % 16);
    }
    ids_ = arena_.values(DType::Int32, ids);
    positions_ = arena_.values(DType::Int32, positions);
    Tensor flat = arena_.values(DType::Int32, blocks);
    blockTable_ = view(flat.data, DType::Int32, {tokens_, pages});
    rows_ = arena_.values(DType::Int32, rows);
    lens_ = arena_.values(DType::Int32, lens);
    starts_ = arena_.values(DType::Int32, starts);
    slots_ = arena_.values(DType::Int64, slots);
  }

  CudaStream& stream_;
  Arena arena_;
  Model m_;
  int64_t tokens_;
  std::vector<Layer> layers_;
  Tensor table_, norm_, head_, cosSin_, residual_, normed_, qkv_, attended_, hidden_, gateUp_, active_, logits_;
  Tensor ids_, positions_, blockTable_, rows_, lens_, starts_, slots_;
};

int capture(CudaStream& stream, Decoder& decoder, const Mode& mode) {
  stream.setOverlaps(mode.overlap);
  decoder.run(mode);  // loads kernels and makes plans
  stream.beginCapture();
  decoder.run(mode);
  return stream.endCapture();
}

// Every mode, as calls and as a graph that is launched again and again, must leave the same bits as one op after the other.
int check(CudaStream& stream, const Model& model) {
  int failed = 0;
  for (const int64_t tokens : {1, 2, 3, 40}) {
    Decoder decoder(stream, model, tokens);
    stream.setOverlaps(false);
    decoder.run(kModes[0]);
    const std::vector<char> expected = decoder.results([&] { decoder.run(kModes[0]); });
    for (const Mode& mode : kModes) {
      stream.setOverlaps(mode.overlap);
      decoder.run(mode);
      int wrong = decoder.results([&] { decoder.run(mode); }) != expected;
      const int graph = capture(stream, decoder, mode);
      for (int turn = 0; turn < 20; ++turn)
        wrong += decoder.results([&] {
          for (int i = 0; i < 5; ++i) stream.launchGraph(graph);
        }) != expected;
      stream.destroyGraph(graph);
      std::printf("%s chain of %s, %lld tokens, %s: %d of 21 runs differ\n", wrong ? "FAIL" : "PASS", model.name, static_cast<long long>(tokens), mode.name, wrong);
      std::fflush(stdout);
      failed += wrong != 0;
    }
  }
  return failed;
}

void time(CudaStream& stream, const Model& model, int64_t tokens) {
  Decoder decoder(stream, model, tokens);
  cudaEvent_t begin, end;
  KVASIR_CUDA(cudaEventCreate(&begin));
  KVASIR_CUDA(cudaEventCreate(&end));
  for (const Mode& mode : kModes) {
    const int graph = capture(stream, decoder, mode);
    constexpr int kSteps = 50;
    float best = 1e30f;
    for (int round = 0; round < 4; ++round) {  // the first one warms up
      KVASIR_CUDA(cudaEventRecord(begin, stream.handle()));
      for (int i = 0; i < kSteps; ++i) stream.launchGraph(graph);
      KVASIR_CUDA(cudaEventRecord(end, stream.handle()));
      KVASIR_CUDA(cudaEventSynchronize(end));
      float milliseconds = 0;
      KVASIR_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
      if (round > 0) best = std::fmin(best, milliseconds);
    }
    stream.destroyGraph(graph);
    const double us = best * 1e3 / kSteps;
    std::printf("{\"bench\":\"chain\",\"model\":\"%s\",\"tokens\":%lld,\"mode\":\"%s\",\"us\":%.1f,\"weightGBs\":%.0f}\n", model.name,
                static_cast<long long>(tokens), mode.name, us, decoder.weightBytes() / us / 1e3);
    std::fflush(stdout);
  }
  KVASIR_CUDA(cudaEventDestroy(begin));
  KVASIR_CUDA(cudaEventDestroy(end));
}

}  // namespace

int main(int argc, char** argv) {
  bool checks = argc == 1, timing = argc == 1;
  for (int i = 1; i < argc; ++i) {
    checks |= std::strcmp(argv[i], "check") == 0;
    timing |= std::strcmp(argv[i], "time") == 0;
  }
  try {
    CudaStream stream(0);
    const int failed = checks ? check(stream, kSmall) + check(stream, kModels[0]) : 0;
    if (timing)
      for (const Model& model : kModels)
        for (const int64_t tokens : {1, 2, 32}) time(stream, model, tokens);
    stream.shutdown();
    return failed ? 1 : 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
