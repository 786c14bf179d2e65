#include "comm/gloo.h"

#include <dlfcn.h>

#include <cstring>

#include "comm/gloo_plugin.h"
#include "core/error.h"
#include "cpu/comm.h"
#include "cpu/stream.h"

namespace kvasir::comm {

namespace {

constexpr const char* kPluginFile = "kvasir-gloo.so";
// Up to this size every rank sends all it has to every other, which is one exchange; above, each sums a share, which is two but less to
// send (from three ranks on) and to add.
constexpr int64_t kOneExchangeBytes = 64 << 10;

// The plugin beside the addon; it stays loaded.
std::string pluginPath() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&pluginPath), &info) || !info.dli_fname) return kPluginFile;
  const std::string addon = info.dli_fname;
  const size_t slash = addon.rfind('/');
  return (slash == std::string::npos ? std::string("./") : addon.substr(0, slash + 1)) + kPluginFile;
}

struct Plugin {
  const KvasirGlooApi* api = nullptr;
  std::string report;
};

Plugin loadPlugin() {
  const std::string path = pluginPath();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    return {nullptr, "looked for " + path + " (" + (reason ? reason : "it cannot be loaded") + ")"};
  }
  const auto entry = reinterpret_cast<KvasirGlooEntry>(dlsym(library, kKvasirGlooEntryName));
  const KvasirGlooApi* api = entry ? entry() : nullptr;
  if (!api || api->version != kKvasirGlooVersion) return {nullptr, path + " is of another version of Kvasir; run npm run build"};
  return {api, path};
}

const KvasirGlooApi& requirePlugin() {
  const Plugin plugin = loadPlugin();
  if (!plugin.api)
    fail(kUnsupportedError, "this build has no Gloo: install libgloo-dev (Debian) and rebuild with npm run build; %s", plugin.report.c_str());
  return *plugin.api;
}

// One rank's end. Queued tasks hold it, so that it outlives the communicator.
class GlooRank {
 public:
  GlooRank(int rank, int size, const std::string& host, int timeoutMs) : api_(requirePlugin()), rank_(rank), size_(static_cast<size_t>(size)) {
    KvasirGlooError error{};
    check(api_.create(rank, size, host.c_str(), timeoutMs, &group_, &error), error);
  }
  ~GlooRank() {
    if (group_) api_.destroy(group_);
  }
  GlooRank(const GlooRank&) = delete;
  GlooRank& operator=(const GlooRank&) = delete;

  Communicator::Bytes address() const {
    const char* text = api_.address(group_);
    return {text, text + std::strlen(text)};
  }

  void connect(const std::vector<Communicator::Bytes>& addresses) const {
    std::vector<std::string> texts;
    std::vector<const char*> pointers;
    for (const auto& bytes : addresses) texts.emplace_back(bytes.begin(), bytes.end());
    for (const std::string& text : texts) pointers.push_back(text.c_str());
    KvasirGlooError error{};
    check(api_.connect(group_, pointers.data(), &error), error);
  }

  void abort() const noexcept { api_.abort(group_); }

  void allReduce(cpu::Pool& pool, const Tensor& x) {
    const int64_t n = x.numel(), element = elementSize(x.dtype);
    if (n * element <= kOneExchangeBytes) {
      char* all = gather(x);
      sum(pool, x.dtype, x.data, all, n);
      return;
    }
    std::vector<int64_t> bytes = shares(n, element);
    const int64_t mine = bytes[static_cast<size_t>(rank_)];
    const std::vector<int64_t> equal(size_, mine);
    char* parts = scratch(mine * static_cast<int64_t>(size_));
    KvasirGlooError error{};
    check(api_.allToAll(group_, parts, equal.data(), x.ptr<char>(), bytes.data(), &error), error);
    sum(pool, x.dtype, x.ptr<char>() + n * rank_ / static_cast<int64_t>(size_) * element, parts, mine / element);
    check(api_.allGather(group_, x.ptr<char>(), bytes.data(), &error), error);
  }

  void allGather(const Tensor& out, const Tensor& x) const {
    const int64_t bytes = x.numel() * elementSize(x.dtype);
    std::memcpy(out.ptr<char>() + rank_ * bytes, x.data, static_cast<size_t>(bytes));
    gatherBytes(out.ptr<char>(), bytes);
  }

  void reduceScatter(cpu::Pool& pool, const Tensor& out, const Tensor& x) {
    const int64_t bytes = out.numel() * elementSize(out.dtype);
    const std::vector<int64_t> equal(size_, bytes);
    char* parts = scratch(bytes * static_cast<int64_t>(size_));
    KvasirGlooError error{};
    check(api_.allToAll(group_, parts, equal.data(), x.ptr<char>(), equal.data(), &error), error);
    sum(pool, out.dtype, out.data, parts, out.numel());
  }

  void broadcast(const Tensor& x, int root) const {
    KvasirGlooError error{};
    check(api_.broadcast(group_, x.ptr<char>(), x.numel() * elementSize(x.dtype), root, &error), error);
  }

 private:
  static void check(KvasirGlooStatus status, const KvasirGlooError& error) {
    if (status == KvasirGlooOk) return;
    fail(status == KvasirGlooLaunch ? kLaunchError : status == KvasirGlooRank ? kRankError : kNativeError, "%s", error.message);
  }

  // The x of all ranks, by rank.
  char* gather(const Tensor& x) {
    const int64_t bytes = x.numel() * elementSize(x.dtype);
    char* all = scratch(bytes * static_cast<int64_t>(size_));
    std::memcpy(all + rank_ * bytes, x.data, static_cast<size_t>(bytes));
    gatherBytes(all, bytes);
    return all;
  }

  void gatherBytes(char* all, int64_t bytes) const {
    const std::vector<int64_t> equal(size_, bytes);
    KvasirGlooError error{};
    check(api_.allGather(group_, all, equal.data(), &error), error);
  }

  // Bytes of the share of n elements that each rank sums.
  std::vector<int64_t> shares(int64_t n, int64_t element) const {
    const auto size = static_cast<int64_t>(size_);
    std::vector<int64_t> bytes;
    for (int64_t r = 0; r < size; ++r) bytes.push_back((n * (r + 1) / size - n * r / size) * element);
    return bytes;
  }

  // parts: `size` pieces of n elements behind each other.
  void sum(cpu::Pool& pool, DType dtype, void* out, const char* parts, int64_t n) const {
    std::vector<const void*> pointers;
    for (size_t r = 0; r < size_; ++r) pointers.push_back(parts + static_cast<int64_t>(r) * n * elementSize(dtype));
    cpu::sumParts(pool, dtype, out, pointers.data(), static_cast<int>(size_), n);
  }

  char* scratch(int64_t bytes) {
    if (static_cast<int64_t>(scratch_.size()) < bytes) scratch_ = std::vector<char>(static_cast<size_t>(bytes));
    return scratch_.data();
  }

  const KvasirGlooApi& api_;
  const int rank_;
  const size_t size_;
  KvasirGlooGroup* group_ = nullptr;
  std::vector<char> scratch_;  // used by one task at a time
};

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(int rank, int size, const std::string& host, int timeoutMs)
      : Communicator(rank, size), self_(std::make_shared<GlooRank>(rank, size, host, timeoutMs)) {}

  Bytes address() override { return self_->address(); }
  void connect(const std::vector<Bytes>& addresses) override { self_->connect(addresses); }

  void allReduce(Stream& stream, const Tensor& x) override {
    stream.enqueue("allReduce", [self = self_, &pool = poolOf(stream), x] { self->allReduce(pool, x); });
  }
  void allGather(Stream& stream, const Tensor& out, const Tensor& x) override {
    stream.enqueue("allGather", [self = self_, out, x] { self->allGather(out, x); });
  }
  void reduceScatter(Stream& stream, const Tensor& out, const Tensor& x) override {
    stream.enqueue("reduceScatter", [self = self_, &pool = poolOf(stream), out, x] { self->reduceScatter(pool, out, x); });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    stream.enqueue("broadcast", [self = self_, x, root] { self->broadcast(x, root); });
  }

  void abort() noexcept override { self_->abort(); }

 private:
  static cpu::Pool& poolOf(Stream& stream) { return static_cast<cpu::CpuStream&>(stream).pool(); }

  const std::shared_ptr<GlooRank> self_;
};

}  // namespace

std::unique_ptr<Communicator> glooCommunicator(int rank, int size, const std::string& host, int timeoutMs) {
  return std::make_unique<GlooCommunicator>(rank, size, host, timeoutMs);
}

GlooReport findGloo() {
  const Plugin plugin = loadPlugin();
  return {plugin.api != nullptr, plugin.report};
}

}  // namespace kvasir::comm
