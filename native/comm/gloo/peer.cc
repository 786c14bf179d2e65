#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "comm/gloo/failure.h"
#include "comm/gloo/transport.h"

namespace kvasir::gloo_plugin {

namespace {

// Whether a call that moved nothing may be tried again; throws when the connection has ended.
bool again(int rank, ssize_t result) {
  if (result < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  const std::string who = "rank " + std::to_string(rank);
  if (result == 0 || errno == ECONNRESET || errno == EPIPE) throw Failure(KvasirGlooRank, who + " ended the connection");
  throw Failure(KvasirGlooRank, "the connection with " + who + " failed: " + std::strerror(errno));
}

}  // namespace

bool Peer::write() {
  bool moved = false;
  while (!sends_.empty()) {
    Send& s = sends_.front();
    const size_t total = sizeof(Header) + s.header.bytes;
    const size_t headerSent = s.sent < sizeof(Header) ? s.sent : sizeof(Header), dataSent = s.sent - headerSent;
    iovec parts[2] = {{reinterpret_cast<char*>(&s.header) + headerSent, sizeof(Header) - headerSent},
                      {const_cast<char*>(s.data) + dataSent, s.header.bytes - dataSent}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t n = sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0 && again(rank_, n)) return moved;
    moved = true;
    s.sent += static_cast<size_t>(n);
    if (s.sent < total) continue;
    s.buffer->sent += 1;
    s.buffer->lastTo = rank_;
    sends_.pop_front();
  }
  return moved;
}

bool Peer::readHeader() {
  bool moved = false;
  while (!headerComplete()) {
    const ssize_t n = ::recv(fd_.get(), reinterpret_cast<char*>(&header_) + headerRead_, sizeof header_ - headerRead_, MSG_DONTWAIT);
    if (n <= 0 && again(rank_, n)) return moved;
    headerRead_ += static_cast<size_t>(n);
    moved = true;
  }
  if (header_.slot == kGoodbyeSlot) {
    left_ = true;
    headerRead_ = 0;
  }
  return moved;
}

// Reads what the first receive waits for. Messages of a connection come in the order in which both sides go through their collectives.
bool Peer::readMessage() {
  const Recv& r = recvs_.front();
  if (r.slot != header_.slot || r.bytes != header_.bytes)
    throw Failure(KvasirGlooRank, "the ranks run different collectives: rank " + std::to_string(rank_) + " sent " + std::to_string(header_.bytes) +
                                      " bytes, expected " + std::to_string(r.bytes) + " of " + (r.slot == header_.slot ? "the same" : "another") + " collective");
  bool moved = false;
  while (dataRead_ < r.bytes) {
    const ssize_t n = ::recv(fd_.get(), r.data + dataRead_, r.bytes - dataRead_, MSG_DONTWAIT);
    if (n <= 0 && again(rank_, n)) return moved;
    dataRead_ += static_cast<size_t>(n);
    moved = true;
  }
  r.buffer->received += 1;
  r.buffer->lastFrom = rank_;
  recvs_.pop_front();
  headerRead_ = dataRead_ = 0;
  return true;
}

// Headers are read even when nothing is received, so that the end of a rank is noticed while others are waited for.
bool Peer::read() {
  bool moved = false;
  while (!left_) {
    if (!headerComplete()) moved = readHeader() || moved;
    if (left_ || !headerComplete() || recvs_.empty()) break;
    const size_t before = recvs_.size();
    moved = readMessage() || moved;
    if (recvs_.size() == before) break;
  }
  if (left_ && busy()) throw Failure(KvasirGlooRank, "rank " + std::to_string(rank_) + " closed its communicator");
  return moved;
}

void Peer::sayGoodbye() noexcept {
  if (left_ || busy()) return;
  const Header goodbye{kGoodbyeSlot, 0};
  // Where there is no room for it, the other rank sees an end without a word: a failure, if it still needs this one.
  [[maybe_unused]] const ssize_t sent = ::send(fd_.get(), &goodbye, sizeof goodbye, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Peer::forgetAll() {
  sends_.clear();
  recvs_.clear();
}

void Peer::forget(const Buffer* buffer) {
  std::erase_if(sends_, [&](const Send& s) { return s.buffer == buffer; });
  std::erase_if(recvs_, [&](const Recv& r) { return r.buffer == buffer; });
}

}  // namespace kvasir::gloo_plugin
