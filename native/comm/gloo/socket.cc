#include "comm/gloo/socket.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "comm/gloo/failure.h"

namespace kvasir::gloo_plugin {

namespace {

constexpr int kBacklog = 128;

[[noreturn]] void failErrno(const std::string& what) { throw Failure(KvasirGlooLaunch, what + ": " + std::strerror(errno)); }

bool isWildcard(const Endpoint& e) {
  if (e.address.ss_family == AF_INET) return reinterpret_cast<const sockaddr_in&>(e.address).sin_addr.s_addr == htonl(INADDR_ANY);
  return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(e.address).sin6_addr);
}

socklen_t lengthOf(int family) { return family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6); }

// The first address of the interface with this name, IPv4 before IPv6; length 0 when there is none.
Endpoint interfaceAddress(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  for (const int family : {AF_INET, AF_INET6})
    for (const ifaddrs* i = list; i; i = i->ifa_next)
      if (i->ifa_addr && i->ifa_addr->sa_family == family && name == i->ifa_name) {
        Endpoint found;
        found.length = lengthOf(family);
        std::memcpy(&found.address, i->ifa_addr, found.length);
        return found;
      }
  return {};
}

Endpoint lookUp(const std::string& host, const char* port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), port, &hints, &list);
  if (error != 0) throw Failure(KvasirGlooLaunch, "\"" + host + "\" is neither an interface nor an address of this machine: " + gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  Endpoint found;
  found.length = list->ai_addrlen;
  std::memcpy(&found.address, list->ai_addr, found.length);
  return found;
}

Fd newSocket(int family) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) failErrno("no socket could be made");
  return fd;
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

Alarm::Alarm() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!fd_) failErrno("no event could be made");
}

void Alarm::ring() const noexcept {
  const uint64_t one = 1;
  while (write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

Endpoint resolveInterface(const std::string& host) {
  const std::string name = host.empty() ? "127.0.0.1" : host;
  Endpoint endpoint = interfaceAddress(name);
  if (endpoint.length == 0) endpoint = lookUp(name, "0", 0);
  if (isWildcard(endpoint)) throw Failure(KvasirGlooLaunch, "\"" + name + "\" is not an address that other ranks can reach; expected that of one interface");
  return endpoint;
}

Endpoint parseEndpoint(const std::string& address, const std::string& port) { return lookUp(address, port.c_str(), AI_NUMERICHOST | AI_NUMERICSERV); }

std::string nameOf(int socket) {
  Endpoint self;
  self.length = sizeof self.address;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&self.address), &self.length) != 0) failErrno("the address of a socket is not known");
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&self.address), self.length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    throw Failure(KvasirGlooLaunch, "the address of a socket has no name");
  return std::string(host) + " " + port;
}

Fd listenOn(const Endpoint& endpoint) {
  Fd fd = newSocket(endpoint.address.ss_family);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length) != 0) failErrno("the interface cannot be listened on");
  if (listen(fd.get(), kBacklog) != 0) failErrno("the interface cannot be listened on");
  return fd;
}

Fd beginConnect(const Endpoint& endpoint) {
  Fd fd = newSocket(endpoint.address.ss_family);
  const int result = connect(fd.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length);
  if (result != 0 && errno != EINPROGRESS) failErrno("a connection failed");
  return fd;
}

int connectionError(int socket) {
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

void sendAtOnce(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace kvasir::gloo_plugin
