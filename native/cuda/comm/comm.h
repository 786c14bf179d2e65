// Communicators among CUDA streams: NCCL (one GPU per rank), and ranks of one process that share a GPU.
#pragma once

#include <memory>
#include <string>

#include "core/communicator.h"

namespace kvasir::cuda {

class CudaStream;

inline constexpr int kMaxLocalRanks = 4;
inline constexpr int kLocalTimeoutMs = 20000;

// A rank on `stream`, in a group of 1 to kMaxLocalRanks streams of this process on one device. first: the communicator of rank 0, null for
// rank 0 itself. All ranks can be driven by one thread, one after the other: a kernel of the first waits on the device for those that are
// queued later. So nothing that is called in between may wait for the device. Memory for uploads and results is therefore taken here; what
// the caller has to see to is that the process runs with CUDA_MODULE_LOADING=EAGER (or has run every kernel once), that linear layers
// are not tuned, and that at most a thousand launches wait at a time. A kernel that waits longer than timeoutMs gives up, and the group is lost.
std::unique_ptr<Communicator> localCommunicator(CudaStream& stream, int rank, int size, Communicator* first, int timeoutMs = kLocalTimeoutMs);

// A rank on `stream`'s device. timeoutMs: for the ranks to come together, and for a call of the library. Throws ERR_KVASIR_UNSUPPORTED
// without NCCL. Graphs that hold its collectives must be destroyed before it. It notices what the library notices; that the process of
// another rank ended is not among that on one machine: who learns of it calls abort().
std::unique_ptr<Communicator> ncclCommunicator(CudaStream& stream, int rank, int size, int timeoutMs);

// Whether NCCL is there, its version and path, or where it was looked for; needs no device.
struct NcclReport {
  bool found;
  std::string report;
};
NcclReport findNccl();

}  // namespace kvasir::cuda
