// Ranks of one process, each on a CPU stream of its own: their queued collectives meet and read each other's memory.
#pragma once

#include <memory>

#include "core/communicator.h"

namespace kvasir::comm {

// first: rank 0's communicator, null for rank 0 itself. A rank that waits longer than timeoutMs for the others fails with ERR_KVASIR_RANK.
std::unique_ptr<Communicator> localCommunicator(int rank, int size, int timeoutMs, Communicator* first);

}  // namespace kvasir::comm
