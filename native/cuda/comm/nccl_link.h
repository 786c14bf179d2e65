// A communicator of NCCL's and the thread that watches over it. The library is told not to block (config.blocking = 0), so that no call can
// wait longer than this class allows. Only the watching thread ends the communicator: in an orderly way, or by abort when it failed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "cuda/comm/nccl_library.h"
#include "cuda/stream.h"

namespace kvasir::cuda {

class NcclLink final : public FenceCheck, public std::enable_shared_from_this<NcclLink> {
 public:
  NcclLink(std::shared_ptr<const NcclLibrary> library, int device, int rank, int size, int timeoutMs);

  const NcclLibrary& library() const { return *library_; }
  int device() const { return device_; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  // Joins the other ranks; throws ERR_KVASIR_LAUNCH. Once.
  void open(const nccl::UniqueId& id);
  // Makes a call of the library and waits until it has queued its work. Throws ERR_KVASIR_RANK when the communicator failed, or does now.
  void call(const char* name, const std::function<nccl::Result(nccl::Comm)>& body);
  // The reason why nothing works from now on; the first one counts. Does not block.
  void fail(const std::string& why) noexcept;
  void throwFailure();
  std::exception_ptr failure() noexcept override;
  // Ends the communicator and the thread. Returns after some seconds at the latest: what then still hangs in the library stays there.
  void close() noexcept;

 private:
  void watch() noexcept;
  void poll() noexcept;
  void end(bool broken) noexcept;
  bool finalize(nccl::Comm comm) noexcept;
  // Waits for a call that answered `result`.
  void settle(const char* name, nccl::Result result);

  const std::shared_ptr<const NcclLibrary> library_;
  const int device_, rank_, size_;
  const std::chrono::milliseconds timeout_;

  std::mutex calls_;  // held while the library works on comm_; never taken by fail()
  nccl::Comm comm_ = nullptr;

  std::mutex state_;
  std::condition_variable wake_;
  std::exception_ptr failure_;
  std::atomic<bool> failed_ = false;
  bool closing_ = false, ended_ = false;
  std::thread watcher_;
};

}  // namespace kvasir::cuda
