// One TCP connection between every two ranks. Each rank's address holds a random key, which only the ranks learn; a connection counts
// when both sides have shown the other's key, so that a stranger who reaches a port neither takes a rank's place nor holds the ranks up.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "comm/gloo/socket.h"

namespace kvasir::gloo_plugin {

using Key = std::array<unsigned char, 32>;

struct RankAddress {
  Endpoint endpoint;
  Key key;
};

class Mesh {
 public:
  Mesh(int rank, int size, const std::string& host, std::chrono::milliseconds timeout);

  // "127.0.0.1 1234 <key in hex>"
  const std::string& address() const { return address_; }
  // Connects to the ranks before this one and accepts those behind it. Throws KvasirGlooLaunch after the timeout, or when `aborted` is
  // set and the alarm was rung.
  void connect(const std::vector<std::string>& addresses, const Alarm& alarm, const std::atomic<bool>& aborted);
  // By rank; none for this rank itself.
  std::vector<Fd> takeSockets() { return std::move(sockets_); }

 private:
  struct Hello;
  struct Link;
  bool advance(Link& link, short events);
  void afterHello(Link& link);
  void acceptAll(std::vector<Link>& links);
  void pollOnce(std::vector<Link>& links, const Alarm& alarm, std::chrono::steady_clock::time_point deadline);
  Hello hello(int to) const;
  bool isHello(const Hello& hello) const;
  std::string missing() const;

  const int rank_;
  const int size_;
  const std::chrono::milliseconds timeout_;
  Key key_{};
  Fd listener_;
  std::string address_;
  std::vector<RankAddress> peers_;
  std::vector<Fd> sockets_;
};

}  // namespace kvasir::gloo_plugin
