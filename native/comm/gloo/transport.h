// A transport for Gloo's collectives: one TCP connection between every two ranks, moved along by the thread that runs the collective.
//
// Gloo's own TCP transport is not used, because it hands every message to a second thread after two notices have crossed (milliseconds
// where cores are busy), because a waiting rank cannot be woken, because what that thread throws ends the process, and because it takes
// whoever connects first for the other rank. Here nothing runs between collectives, a message is one write and two reads, abort() rings
// an alarm that every wait listens to, and any failure shuts all connections, so that it reaches the other ranks at once.
#pragma once

#include <gloo/transport/address.h>
#include <gloo/transport/buffer.h>
#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/unbound_buffer.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/gloo/socket.h"

namespace kvasir::gloo_plugin {

// Counts what was sent from it and received into it and not waited for.
struct Buffer;

// In front of each message.
struct Header {
  uint64_t slot;
  uint64_t bytes;
};

// Instead of a message: the rank leaves in order, after all its collectives. No slot of Gloo's.
inline constexpr uint64_t kGoodbyeSlot = ~uint64_t{0};

// The connection with one rank.
class Peer {
 public:
  Peer(int rank, Fd fd) : rank_(rank), fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  int rank() const { return rank_; }
  void postSend(Buffer* buffer, uint64_t slot, const char* data, size_t bytes) { sends_.push_back({buffer, {slot, bytes}, data, 0}); }
  void postRecv(Buffer* buffer, uint64_t slot, char* data, size_t bytes) { recvs_.push_back({buffer, slot, data, bytes}); }
  bool sending() const { return !sends_.empty(); }
  bool busy() const { return !sends_.empty() || !recvs_.empty(); }
  // Whether anything that comes would be read now.
  bool listening() const { return !left_ && (!headerComplete() || !recvs_.empty()); }
  // Writes or reads what is possible without waiting; true if anything moved. Throws when the connection has ended, but for a rank that said
  // goodbye and is not needed.
  bool write();
  bool read();
  // An orderly end.
  void sayGoodbye() noexcept;
  void forget(const Buffer* buffer);
  void forgetAll();

 private:
  struct Send {
    Buffer* buffer;
    Header header;
    const char* data;
    size_t sent;  // of header and data together
  };
  struct Recv {
    Buffer* buffer;
    uint64_t slot;
    char* data;
    size_t bytes;
  };
  bool headerComplete() const { return headerRead_ == sizeof header_; }
  bool readHeader();
  bool readMessage();

  const int rank_;
  const Fd fd_;
  std::deque<Send> sends_;
  std::deque<Recv> recvs_;
  Header header_{};
  size_t headerRead_ = 0;
  size_t dataRead_ = 0;
  bool left_ = false;
};

class Transport final : public ::gloo::transport::Context {
 public:
  Transport(int rank, int size, std::chrono::milliseconds timeout);
  ~Transport() override;

  // sockets: by rank, none for this one.
  void open(std::vector<Fd> sockets);
  const Alarm& alarm() const { return alarm_; }
  const std::atomic<bool>& aborted() const { return aborted_; }
  // From any thread.
  void abort() noexcept;
  // Shuts the connections: the other ranks notice at once, and later calls here fail with this reason.
  void fail(const std::string& reason) noexcept;
  void checkFailed() const;

  void send(Buffer* buffer, int to, uint64_t slot, const char* data, size_t bytes);
  void recv(Buffer* buffer, int from, uint64_t slot, char* data, size_t bytes);
  // Moves messages until `count` is not zero, then takes one off.
  void wait(int& count);
  void forget(const Buffer* buffer) noexcept;

  std::unique_ptr<::gloo::transport::Pair>& createPair(int rank) override;
  std::unique_ptr<::gloo::transport::UnboundBuffer> createUnboundBuffer(void* ptr, size_t size) override;

 private:
  Peer& peer(int rank);
  bool moveAll();
  void sleep(std::chrono::milliseconds most);
  std::string awaited() const;

  const std::chrono::milliseconds patience_;
  Alarm alarm_;
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;  // guards the list of peers against abort() while it is made
  std::vector<std::unique_ptr<Peer>> peers_;
  std::string failure_;  // of the thread that runs collectives
};

struct Buffer final : ::gloo::transport::UnboundBuffer {
  Buffer(Transport& owner, void* memory, size_t bytes) : ::gloo::transport::UnboundBuffer(memory, bytes), transport(owner) {}
  ~Buffer() override { transport.forget(this); }

  bool waitRecv(int* rank, std::chrono::milliseconds timeout) override;
  bool waitSend(int* rank, std::chrono::milliseconds timeout) override;
  void abortWaitRecv() override { transport.abort(); }
  void abortWaitSend() override { transport.abort(); }
  void send(int to, uint64_t slot, size_t offset, size_t bytes) override;
  void recv(int from, uint64_t slot, size_t offset, size_t bytes) override;
  void recv(std::vector<int> from, uint64_t slot, size_t offset, size_t bytes) override;

  Transport& transport;
  int sent = 0, received = 0;
  int lastTo = -1, lastFrom = -1;

 private:
  char* at(size_t offset, size_t& bytes) const;
};

}  // namespace kvasir::gloo_plugin
