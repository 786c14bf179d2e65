// Finds shared libraries of NVIDIA's that are too large to ship with the addon and are loaded when they are there.
#pragma once

#include <string>
#include <vector>

namespace kvasir::cuda {

struct LibraryQuery {
  std::vector<std::string> names;            // file names, best first
  std::vector<std::string> pythonFolders;    // below site-packages, e.g. "nvidia/cu13/lib"
  std::string explicitPath;                  // a file or folder; when given, nothing else is tried
  const char* pathVariable = nullptr;        // environment variable that stands in for an empty explicitPath
};

struct LoadedLibrary {
  void* handle = nullptr;  // of dlopen; never closed, since such libraries keep state on the device. Null: not found
  std::string path;
  std::string report;      // where was looked and what the loader said, for people
};

// Tries, for each name in turn: CUDA toolkits below /usr/local, Python environments, then the loader's own path.
LoadedLibrary loadLibrary(const LibraryQuery& query);

}  // namespace kvasir::cuda
