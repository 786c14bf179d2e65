// Ranks in processes of their own that talk over TCP: Gloo's collectives, for CPU streams.
#pragma once

#include <memory>
#include <string>

#include "core/communicator.h"

namespace kvasir::comm {

// host: the address or name of the interface to listen on, empty for the loopback. Throws ERR_KVASIR_UNSUPPORTED without the plugin, and
// ERR_KVASIR_LAUNCH when host cannot be listened on. A wait for other ranks of more than timeoutMs without a byte fails.
std::unique_ptr<Communicator> glooCommunicator(int rank, int size, const std::string& host, int timeoutMs);

struct GlooReport {
  bool found;
  std::string report;  // where the plugin is, or where it was looked for and why it cannot be used
};
GlooReport findGloo();

}  // namespace kvasir::comm
