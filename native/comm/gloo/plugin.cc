// kvasir-gloo.so: collectives of Gloo over comm/gloo/transport.h, behind the C interface of comm/gloo_plugin.h.
#include "comm/gloo_plugin.h"

#include <gloo/allgatherv.h>
#include <gloo/alltoallv.h>
#include <gloo/broadcast.h>
#include <gloo/context.h>
#include <gloo/types.h>

#include <algorithm>
#include <cstdio>

#include "comm/gloo/failure.h"
#include "comm/gloo/mesh.h"
#include "comm/gloo/transport.h"

namespace kvasir::gloo_plugin {

namespace {

// Up to this size a rank sends its piece to all others at once (one step); above, pieces go around the ring of Gloo's allgatherv, in
// which each rank receives from one other only.
constexpr int64_t kDirectBytes = 128 << 10;

struct GroupContext final : ::gloo::Context {
  GroupContext(int ownRank, int numRanks, const std::shared_ptr<Transport>& transport) : ::gloo::Context(ownRank, numRanks) {
    transportContext_ = transport;
    setTimeout(transport->getTimeout());
  }
};

}  // namespace

}  // namespace kvasir::gloo_plugin

using namespace kvasir::gloo_plugin;

struct KvasirGlooGroup {
  KvasirGlooGroup(int rank, int size, const char* host, std::chrono::milliseconds timeout)
      : transport(std::make_shared<Transport>(rank, size, timeout)),
        context(std::make_shared<GroupContext>(rank, size, transport)),
        mesh(rank, size, host, timeout) {}

  const std::shared_ptr<Transport> transport;
  const std::shared_ptr<GroupContext> context;
  Mesh mesh;
  uint32_t tag = 0;  // of the next collective: the same on every rank, so that messages of two never mix
};

namespace {

KvasirGlooStatus report(KvasirGlooStatus status, const char* message, KvasirGlooError* error) {
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return status;
}

template <class F>
KvasirGlooStatus guarded(KvasirGlooError* error, F&& body) noexcept {
  try {
    body();
    return KvasirGlooOk;
  } catch (const Failure& e) {
    return report(e.status, e.what(), error);
  } catch (const std::exception& e) {
    return report(KvasirGlooInternal, e.what(), error);
  } catch (...) {
    return report(KvasirGlooInternal, "unknown C++ exception", error);
  }
}

// A collective that fails leaves the connections in the middle of messages: the group is over for all ranks.
template <class F>
KvasirGlooStatus collective(KvasirGlooGroup* group, KvasirGlooError* error, F&& body) noexcept {
  return guarded(error, [&] {
    group->transport->checkFailed();
    try {
      body(group->tag++);
    } catch (const std::exception& e) {
      group->transport->fail(e.what());
      group->transport->checkFailed();  // abort() is the reason rather than what it caused
      throw;
    }
  });
}

KvasirGlooStatus create(int32_t rank, int32_t size, const char* host, int32_t timeoutMs, KvasirGlooGroup** group, KvasirGlooError* error) {
  return guarded(error, [&] { *group = std::make_unique<KvasirGlooGroup>(rank, size, host, std::chrono::milliseconds(timeoutMs)).release(); });
}

void destroy(KvasirGlooGroup* group) { const std::unique_ptr<KvasirGlooGroup> owner(group); }

const char* address(const KvasirGlooGroup* group) { return group->mesh.address().c_str(); }

KvasirGlooStatus connect(KvasirGlooGroup* group, const char* const* addresses, KvasirGlooError* error) {
  return guarded(error, [&] {
    const std::vector<std::string> all(addresses, addresses + group->context->size);
    group->mesh.connect(all, group->transport->alarm(), group->transport->aborted());
    group->transport->open(group->mesh.takeSockets());
    if (group->transport->aborted().load()) group->transport->abort();  // it may have come before there were connections to shut
  });
}

// Every piece straight to every rank.
void gatherDirectly(KvasirGlooGroup* group, char* data, const int64_t* bytes, uint32_t tag) {
  const int rank = group->context->rank, size = group->context->size;
  int64_t total = 0;
  std::vector<size_t> offsets;
  for (int r = 0; r < size; ++r) {
    offsets.push_back(static_cast<size_t>(total));
    total += bytes[r];
  }
  const auto buffer = group->context->createUnboundBuffer(data, static_cast<size_t>(total));
  const uint64_t slot = ::gloo::Slot::build(::gloo::kAllgatherSlotPrefix, tag);
  const auto at = [&](int r) { return offsets[static_cast<size_t>(r)]; };
  for (int i = 1; i < size; ++i) {
    const int from = (rank + size - i) % size;
    buffer->recv(from, slot, at(from), static_cast<size_t>(bytes[from]));
  }
  for (int i = 1; i < size; ++i) buffer->send((rank + i) % size, slot, at(rank), static_cast<size_t>(bytes[rank]));
  for (int i = 1; i < size; ++i) {
    buffer->waitRecv();
    buffer->waitSend();
  }
}

KvasirGlooStatus allGather(KvasirGlooGroup* group, char* data, const int64_t* bytes, KvasirGlooError* error) {
  return collective(group, error, [&](uint32_t tag) {
    const int size = group->context->size;
    if (size == 2 || *std::max_element(bytes, bytes + size) <= kDirectBytes) return gatherDirectly(group, data, bytes, tag);
    ::gloo::AllgathervOptions options(group->context);
    options.setOutput(data, std::vector<size_t>(bytes, bytes + size));
    options.setTag(tag);
    ::gloo::allgatherv(options);
  });
}

KvasirGlooStatus allToAll(KvasirGlooGroup* group, char* out, const int64_t* outBytes, const char* in, const int64_t* inBytes, KvasirGlooError* error) {
  return collective(group, error, [&](uint32_t tag) {
    const int size = group->context->size;
    ::gloo::AlltoallvOptions options(group->context);
    options.setInput(const_cast<char*>(in), std::vector<int64_t>(inBytes, inBytes + size));
    options.setOutput(out, std::vector<int64_t>(outBytes, outBytes + size));
    options.setTag(tag);
    ::gloo::alltoallv(options);
  });
}

KvasirGlooStatus broadcast(KvasirGlooGroup* group, char* data, int64_t bytes, int32_t root, KvasirGlooError* error) {
  return collective(group, error, [&](uint32_t tag) {
    ::gloo::BroadcastOptions options(group->context);
    options.setOutput(data, static_cast<size_t>(bytes));
    options.setRoot(root);
    options.setTag(tag);
    ::gloo::broadcast(options);
  });
}

void abortGroup(KvasirGlooGroup* group) { group->transport->abort(); }

}  // namespace

extern "C" __attribute__((visibility("default"))) const KvasirGlooApi* kvasirGlooApi() {
  static constexpr KvasirGlooApi api{kKvasirGlooVersion, create, destroy, address, connect, allGather, allToAll, broadcast, abortGroup};
  return &api;
}
