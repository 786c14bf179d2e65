#include "comm/gloo/transport.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "comm/gloo/failure.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvasir::gloo_plugin {

namespace {

using Clock = std::chrono::steady_clock;

// How long a wait asks again and again before it sleeps: longer than a message takes between two processes, too short to be felt.
constexpr std::chrono::microseconds kSpin{20};

// What Gloo asks of a connection besides that it exists; the buffers do the work.
class PairStandIn final : public ::gloo::transport::Pair {
 public:
  const ::gloo::transport::Address& address() const override { refuse(); }
  void connect(const std::vector<char>&) override { refuse(); }
  void close() override {}
  void setSync(bool, bool) override { refuse(); }
  bool isConnected() { return true; }  // in later versions of Gloo
  std::unique_ptr<::gloo::transport::Buffer> createSendBuffer(int, void*, size_t) override { refuse(); }
  std::unique_ptr<::gloo::transport::Buffer> createRecvBuffer(int, void*, size_t) override { refuse(); }
  void send(::gloo::transport::UnboundBuffer*, uint64_t, size_t, size_t) override { refuse(); }
  void recv(::gloo::transport::UnboundBuffer*, uint64_t, size_t, size_t) override { refuse(); }

 private:
  [[noreturn]] static void refuse() { throw Failure(KvasirGlooInternal, "a collective asked for what this transport does not have"); }
};

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

Transport::Transport(int rank, int size, std::chrono::milliseconds timeout) : ::gloo::transport::Context(rank, size), patience_(timeout) {
  setTimeout(timeout);
}

Transport::~Transport() {
  if (aborted_.load() || !failure_.empty()) return;
  for (const auto& p : peers_)
    if (p) p->sayGoodbye();
}

void Transport::open(std::vector<Fd> sockets) {
  for (int r = 0; r < size; ++r)
    if (r != rank) createPair(r);
  const std::lock_guard lock(mutex_);
  for (int r = 0; r < size; ++r) peers_.push_back(r == rank ? nullptr : std::make_unique<Peer>(r, std::move(sockets[static_cast<size_t>(r)])));
}

void Transport::abort() noexcept {
  aborted_.store(true);
  alarm_.ring();
  const std::lock_guard lock(mutex_);
  for (const auto& p : peers_)
    if (p) shutdown(p->fd(), SHUT_RDWR);
}

void Transport::fail(const std::string& reason) noexcept {
  if (failure_.empty()) failure_ = reason;
  for (const auto& p : peers_) {
    if (!p) continue;
    p->forgetAll();
    shutdown(p->fd(), SHUT_RDWR);
  }
}

void Transport::checkFailed() const {
  if (aborted_.load()) throw Failure(KvasirGlooRank, "the group was aborted");
  if (!failure_.empty()) throw Failure(KvasirGlooRank, failure_);
}

Peer& Transport::peer(int rank) {
  checkFailed();
  if (rank < 0 || rank >= static_cast<int>(peers_.size()) || !peers_[static_cast<size_t>(rank)])
    throw Failure(KvasirGlooInternal, "there is no connection with rank " + std::to_string(rank));
  return *peers_[static_cast<size_t>(rank)];
}

void Transport::send(Buffer* buffer, int to, uint64_t slot, const char* data, size_t bytes) {
  Peer& p = peer(to);
  p.postSend(buffer, slot, data, bytes);
  p.write();
}

void Transport::recv(Buffer* buffer, int from, uint64_t slot, char* data, size_t bytes) { peer(from).postRecv(buffer, slot, data, bytes); }

bool Transport::moveAll() {
  bool moved = false;
  for (const auto& p : peers_) {
    if (!p) continue;
    moved = p->read() || moved;
    if (p->sending()) moved = p->write() || moved;
  }
  return moved;
}

void Transport::sleep(std::chrono::milliseconds most) {
  std::vector<pollfd> fds{{alarm_.fd(), POLLIN, 0}};
  for (const auto& p : peers_)
    if (p && (p->sending() || p->listening())) fds.push_back({p->fd(), static_cast<short>((p->listening() ? POLLIN : 0) | (p->sending() ? POLLOUT : 0)), 0});
  if (poll(fds.data(), fds.size(), static_cast<int>(std::max<int64_t>(1, most.count()))) < 0 && errno != EINTR)
    throw Failure(KvasirGlooInternal, "the connections cannot be polled");
}

std::string Transport::awaited() const {
  std::string ranks;
  for (const auto& p : peers_)
    if (p && p->busy()) ranks += (ranks.empty() ? "rank " : ", ") + std::to_string(p->rank());
  return ranks.empty() ? "no rank" : ranks;
}

void Transport::wait(int& count) {
  auto moved = Clock::now();
  while (count == 0) {
    checkFailed();
    if (moveAll()) {
      moved = Clock::now();
      continue;
    }
    const auto idle = Clock::now() - moved;
    if (idle >= patience_) throw Failure(KvasirGlooRank, "no answer from " + awaited() + " within " + std::to_string(patience_.count()) + " ms");
    if (idle < kSpin) pause();
    else sleep(std::chrono::duration_cast<std::chrono::milliseconds>(patience_ - idle) + std::chrono::milliseconds(1));
  }
  --count;
}

void Transport::forget(const Buffer* buffer) noexcept {
  for (const auto& p : peers_)
    if (p) p->forget(buffer);
}

std::unique_ptr<::gloo::transport::Pair>& Transport::createPair(int rank) {
  auto& pair = pairs_[static_cast<size_t>(rank)];
  pair = std::make_unique<PairStandIn>();
  return pair;
}

std::unique_ptr<::gloo::transport::UnboundBuffer> Transport::createUnboundBuffer(void* ptr, size_t bytes) {
  return std::make_unique<Buffer>(*this, ptr, bytes);
}

char* Buffer::at(size_t offset, size_t& bytes) const {
  if (bytes == kUnspecifiedByteCount) bytes = size - std::min(offset, size);
  if (offset > size || bytes > size - offset) throw Failure(KvasirGlooInternal, "a message reaches beyond its buffer");
  return static_cast<char*>(ptr) + offset;
}

bool Buffer::waitRecv(int* rank, std::chrono::milliseconds) {
  transport.wait(received);
  if (rank) *rank = lastFrom;
  return true;
}

bool Buffer::waitSend(int* rank, std::chrono::milliseconds) {
  transport.wait(sent);
  if (rank) *rank = lastTo;
  return true;
}

void Buffer::send(int to, uint64_t slot, size_t offset, size_t bytes) {
  const char* data = at(offset, bytes);
  transport.send(this, to, slot, data, bytes);
}

void Buffer::recv(int from, uint64_t slot, size_t offset, size_t bytes) {
  char* data = at(offset, bytes);
  transport.recv(this, from, slot, data, bytes);
}

void Buffer::recv(std::vector<int>, uint64_t, size_t, size_t) {
  throw Failure(KvasirGlooInternal, "a collective wants to receive from any rank, which this transport does not have");
}

}  // namespace kvasir::gloo_plugin
