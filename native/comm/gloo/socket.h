// File descriptors and TCP sockets that never block.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

namespace kvasir::gloo_plugin {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

// A flag that a thread which polls notices.
class Alarm {
 public:
  Alarm();
  void ring() const noexcept;
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
};

struct Endpoint {
  sockaddr_storage address{};
  socklen_t length = 0;
};

// The address of an interface by its name ("eth0"), host name or number; port 0.
Endpoint resolveInterface(const std::string& host);
// From "127.0.0.1" and "1234".
Endpoint parseEndpoint(const std::string& address, const std::string& port);
// "127.0.0.1 1234" of a bound socket.
std::string nameOf(int socket);

Fd listenOn(const Endpoint& endpoint);
// A connection that is being made; poll for writing, then ask connectionError().
Fd beginConnect(const Endpoint& endpoint);
// 0, or the errno of a connection that failed.
int connectionError(int socket);
// For small messages, sent at once.
void sendAtOnce(int socket);

}  // namespace kvasir::gloo_plugin
