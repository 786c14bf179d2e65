#include "cuda/gemm/library_search.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>

namespace kvasir::cuda {

namespace {

std::string variable(const char* name) {
  const char* value = name ? std::getenv(name) : nullptr;
  return value ? value : "";
}

std::vector<std::string> existing(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  return paths;
}

std::vector<std::string> pythonPrefixes() {
  std::vector<std::string> prefixes;
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const std::string value = variable(name); !value.empty()) prefixes.push_back(value);
  prefixes.insert(prefixes.end(), {"/usr/local", "/usr", "/opt/*", "/opt/*/.venv", "/opt/*/venv"});
  if (const std::string home = variable("HOME"); !home.empty())
    for (const char* below : {"/.local", "/.venv", "/venv", "/.pyenv/versions/*", "/miniconda3", "/anaconda3"}) prefixes.push_back(home + below);
  return prefixes;
}

// Patterns of folders, in the order in which they are tried.
std::vector<std::string> folders(const LibraryQuery& query) {
  std::vector<std::string> patterns = {"/usr/local/cuda/lib64", "/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib"};
  for (const std::string& prefix : pythonPrefixes())
    for (const char* packages : {"site-packages", "dist-packages"})
      for (const std::string& folder : query.pythonFolders) patterns.push_back(prefix + "/lib/python3*/" + packages + "/" + folder);
  return patterns;
}

bool open(LoadedLibrary& library, const std::string& path) {
  library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library.handle) {
    const char* error = dlerror();
    library.report += "  " + (error ? std::string(error) : path + ": cannot be loaded") + "\n";  // names the file
    return false;
  }
  library.path = path;
  library.report += "  " + path + ": loaded\n";
  return true;
}

bool openExplicit(LoadedLibrary& library, const std::string& path, const LibraryQuery& query) {
  for (const std::string& name : query.names)
    for (const std::string& file : existing(path + "/" + name))
      if (open(library, file)) return true;
  return open(library, path);
}

}  // namespace

LoadedLibrary loadLibrary(const LibraryQuery& query) {
  LoadedLibrary library;
  const std::string path = query.explicitPath.empty() ? variable(query.pathVariable) : query.explicitPath;
  if (!path.empty()) {
    library.report = "looked only at the path that was given:\n";
    openExplicit(library, path, query);
    return library;
  }
  const std::vector<std::string> patterns = folders(query);
  library.report = "looked in " + std::to_string(patterns.size()) + " folders (CUDA toolkits in /usr/local, Python environments) and the loader's path:\n";
  for (const std::string& name : query.names) {
    for (const std::string& pattern : patterns)
      for (const std::string& file : existing(pattern + "/" + name))
        if (open(library, file)) return library;
    if (open(library, name)) return library;
  }
  return library;
}

}  // namespace kvasir::cuda
