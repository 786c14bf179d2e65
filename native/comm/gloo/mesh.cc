#include "comm/gloo/mesh.h"

#include <poll.h>
#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "comm/gloo/failure.h"

namespace kvasir::gloo_plugin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMagic = 0x6b76617369722d31;  // also tells a machine with another byte order
// Connections that have not said who they are.
constexpr size_t kMaxStrangers = 256;
constexpr char kHexDigits[] = "0123456789abcdef";

std::string toHex(const Key& key) {
  std::string text;
  for (const unsigned char byte : key) text += {kHexDigits[byte >> 4], kHexDigits[byte & 15]};
  return text;
}

RankAddress parseAddress(const std::string& text, size_t rank) {
  std::istringstream words(text);
  std::string host, port, hex;
  RankAddress parsed{};
  if (!(words >> host >> port >> hex) || hex.size() != 2 * parsed.key.size() || hex.find_first_not_of(kHexDigits) != std::string::npos)
    throw Failure(KvasirGlooLaunch, "the address of rank " + std::to_string(rank) + " is not that of a Gloo communicator");
  const auto digit = [&](size_t i) { return std::strchr(kHexDigits, hex[i]) - kHexDigits; };
  for (size_t i = 0; i < parsed.key.size(); ++i) parsed.key[i] = static_cast<unsigned char>(digit(2 * i) << 4 | digit(2 * i + 1));
  parsed.endpoint = parseEndpoint(host, port);
  return parsed;
}

// In a time that does not tell how much of it fits.
bool sameKey(const Key& a, const Key& b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

// What both sides of a connection send first: who they are, and the other's key.
struct Mesh::Hello {
  uint64_t magic;
  int32_t from, to, size, version;
  Key key;
};

struct Mesh::Link {
  Fd fd;
  int peer;  // -1: somebody who has not said who he is
  bool connecting;
  Hello in{}, out{};
  size_t received = 0, sent = 0;

  bool wantsToSend() const { return connecting || (peer >= 0 && sent < sizeof out); }
  bool done() const { return !connecting && received == sizeof in && sent == sizeof out; }
};

Mesh::Mesh(int rank, int size, const std::string& host, std::chrono::milliseconds timeout)
    : rank_(rank), size_(size), timeout_(timeout), listener_(listenOn(resolveInterface(host))), sockets_(static_cast<size_t>(size)) {
  if (getrandom(key_.data(), key_.size(), 0) != static_cast<ssize_t>(key_.size())) throw Failure(KvasirGlooInternal, "the system gives no random bytes");
  address_ = nameOf(listener_.get()) + " " + toHex(key_);
}

Mesh::Hello Mesh::hello(int to) const { return {kMagic, rank_, to, size_, kKvasirGlooVersion, peers_[static_cast<size_t>(to)].key}; }

bool Mesh::isHello(const Hello& h) const {
  return h.magic == kMagic && h.version == kKvasirGlooVersion && h.size == size_ && h.to == rank_ && h.from >= 0 && h.from < size_ && sameKey(h.key, key_);
}

// The other side said who it is: true if it may stay.
void Mesh::afterHello(Link& link) {
  const bool known = isHello(link.in) && (link.peer < 0 ? link.in.from > rank_ && !sockets_[static_cast<size_t>(link.in.from)] : link.in.from == link.peer);
  if (!known) {
    if (link.peer >= 0) throw Failure(KvasirGlooLaunch, "who answers at the address of rank " + std::to_string(link.peer) + " is not that rank of this group");
    link.fd = Fd();
    return;
  }
  if (link.peer >= 0) return;
  link.peer = link.in.from;
  link.out = hello(link.peer);
}

// Sends and receives what is possible; false when the connection is of no use.
bool Mesh::advance(Link& link, short events) {
  if (link.connecting) {
    if (!(events & (POLLOUT | POLLERR | POLLHUP))) return true;
    if (const int error = connectionError(link.fd.get()); error != 0)
      throw Failure(KvasirGlooLaunch, "rank " + std::to_string(link.peer) + " cannot be reached: " + std::strerror(error));
    link.connecting = false;
  }
  if (link.received < sizeof link.in && (events & (POLLIN | POLLERR | POLLHUP))) {
    const ssize_t n = recv(link.fd.get(), reinterpret_cast<char*>(&link.in) + link.received, sizeof link.in - link.received, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
      if (link.peer >= 0) throw Failure(KvasirGlooLaunch, "rank " + std::to_string(link.peer) + " ended the connection");
      return false;
    }
    if (n > 0) link.received += static_cast<size_t>(n);
    if (link.received == sizeof link.in) afterHello(link);
    if (!link.fd) return false;
  }
  if (link.peer >= 0 && link.sent < sizeof link.out) {
    const ssize_t n = send(link.fd.get(), reinterpret_cast<const char*>(&link.out) + link.sent, sizeof link.out - link.sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) throw Failure(KvasirGlooLaunch, "rank " + std::to_string(link.peer) + " ended the connection");
    if (n > 0) link.sent += static_cast<size_t>(n);
  }
  return true;
}

void Mesh::acceptAll(std::vector<Link>& links) {
  for (;;) {
    Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    if (links.size() < kMaxStrangers) links.push_back({std::move(fd), -1, false});
  }
}

void Mesh::pollOnce(std::vector<Link>& links, const Alarm& alarm, Clock::time_point deadline) {
  std::vector<pollfd> fds{{alarm.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
  for (const Link& link : links) fds.push_back({link.fd.get(), static_cast<short>(link.wantsToSend() ? POLLIN | POLLOUT : POLLIN), 0});
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  if (left < 0) throw Failure(KvasirGlooLaunch, "the ranks did not come together within " + std::to_string(timeout_.count()) + " ms; missing: " + missing());
  if (poll(fds.data(), fds.size(), static_cast<int>(left) + 1) < 0 && errno != EINTR) throw Failure(KvasirGlooInternal, std::string("poll: ") + std::strerror(errno));
  std::vector<Link> kept;
  for (size_t i = 0; i < links.size(); ++i) {
    Link& link = links[i];
    if (fds[i + 2].revents != 0 && !advance(link, fds[i + 2].revents)) continue;
    if (link.done()) sockets_[static_cast<size_t>(link.peer)] = std::move(link.fd);
    else kept.push_back(std::move(link));
  }
  links = std::move(kept);
  if (fds[1].revents & POLLIN) acceptAll(links);
}

std::string Mesh::missing() const {
  std::string ranks;
  for (int r = 0; r < size_; ++r)
    if (r != rank_ && !sockets_[static_cast<size_t>(r)]) ranks += (ranks.empty() ? "rank " : ", ") + std::to_string(r);
  return ranks;
}

void Mesh::connect(const std::vector<std::string>& addresses, const Alarm& alarm, const std::atomic<bool>& aborted) {
  for (size_t r = 0; r < addresses.size(); ++r) peers_.push_back(parseAddress(addresses[r], r));
  std::vector<Link> links;
  for (int r = 0; r < rank_; ++r) {
    links.push_back({beginConnect(peers_[static_cast<size_t>(r)].endpoint), r, true});
    links.back().out = hello(r);
  }
  const auto deadline = Clock::now() + timeout_;
  while (!missing().empty()) {
    pollOnce(links, alarm, deadline);
    if (aborted.load()) throw Failure(KvasirGlooLaunch, "the group was aborted");
  }
  listener_ = Fd();
  for (const Fd& fd : sockets_)
    if (fd) sendAtOnce(fd.get());
}

}  // namespace kvasir::gloo_plugin
