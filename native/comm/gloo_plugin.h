// The C interface between the addon and kvasir-gloo.so. Gloo is only installed as a shared library with dependencies of its own, so the
// addon does not link it: comm/gloo.cc loads the plugin beside the addon when a Gloo communicator is made. No exception crosses.
#pragma once

#include <cstdint>

extern "C" {

struct KvasirGlooGroup;  // one rank's end

// What a call answers; other than Ok, `error` holds a sentence.
enum KvasirGlooStatus : int32_t { KvasirGlooOk = 0, KvasirGlooLaunch = 1, KvasirGlooRank = 2, KvasirGlooInternal = 3 };

struct KvasirGlooError {
  char message[512];
};

struct KvasirGlooApi {
  int32_t version;  // kKvasirGlooVersion of the headers that the plugin was built with
  KvasirGlooStatus (*create)(int32_t rank, int32_t size, const char* host, int32_t timeoutMs, KvasirGlooGroup** group, KvasirGlooError* error);
  void (*destroy)(KvasirGlooGroup* group);
  // A string that stays valid as long as the group.
  const char* (*address)(const KvasirGlooGroup* group);
  // addresses: `size` strings. Blocks.
  KvasirGlooStatus (*connect)(KvasirGlooGroup* group, const char* const* addresses, KvasirGlooError* error);
  // bytes: by rank. data holds the pieces of all ranks behind each other; this rank's is there, the others are filled in.
  KvasirGlooStatus (*allGather)(KvasirGlooGroup* group, char* data, const int64_t* bytes, KvasirGlooError* error);
  // Piece r of `in` (inBytes[r]) goes to rank r; piece r of `out` (outBytes[r]) comes from rank r.
  KvasirGlooStatus (*allToAll)(KvasirGlooGroup* group, char* out, const int64_t* outBytes, const char* in, const int64_t* inBytes, KvasirGlooError* error);
  KvasirGlooStatus (*broadcast)(KvasirGlooGroup* group, char* data, int64_t bytes, int32_t root, KvasirGlooError* error);
  // From any thread; does not block.
  void (*abort)(KvasirGlooGroup* group);
};

// The plugin's one symbol.
using KvasirGlooEntry = const KvasirGlooApi* (*)();
}

inline constexpr int32_t kKvasirGlooVersion = 1;
inline constexpr const char* kKvasirGlooEntryName = "kvasirGlooApi";
