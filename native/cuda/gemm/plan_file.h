// Timings of cuBLASLt's kernels kept on disk, so that a shape is timed once per GPU and library and not once per process.
// Plain C++ without CUDA: it is tested on machines that have neither.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace kvasir::cuda {

// What timings are good for: another GPU or another library has others. The library promises that a serialized algorithm can be used
// with its own version only.
struct PlanEnvironment {
  std::string device;      // "NVIDIA H100 80GB HBM3"
  std::string capability;  // "9.0"
  int multiprocessors = 0;
  size_t library = 0;  // 130100 is cuBLASLt 13.1.0

  bool operator==(const PlanEnvironment&) const = default;
};

// rows (of a bucket), n, k, strides of weight, x and out in elements, and flags (element type, output type, bias): see LtPlans.
using PlanKey = std::array<int64_t, 7>;

struct StoredPlan {
  std::array<uint64_t, 8> algorithm{};  // cublasLtMatmulAlgo_t
  int candidate = 0;                    // its place in the library's list when it was timed
  int candidates = 0;
  float microseconds = 0;

  bool operator==(const StoredPlan&) const = default;
};

using StoredPlans = std::map<PlanKey, StoredPlan>;

// The text of a file: a line that names format and environment, and a line per plan with a checksum of its own.
std::string serializePlans(const PlanEnvironment& environment, const StoredPlans& plans);

// Nothing if the text is of another format or environment. Lines that are damaged or cut off are left out.
std::optional<StoredPlans> parsePlans(std::string_view text, const PlanEnvironment& environment);

// The name of an environment's file in the cache folder: letters, digits, "-", "_" and ".".
std::string planFileName(const PlanEnvironment& environment);

// The plans of one environment: those of its file, and those added since. Nothing here throws on account of a file: a cache that cannot be
// read or written costs time, not results, and problem() says why.
class PlanFile {
 public:
  // Reads `folder`/planFileName(environment) if it is there. The folder is made when the first plan is added.
  PlanFile(const std::string& folder, PlanEnvironment environment);

  // Null if the plan is not known.
  const StoredPlan* find(const PlanKey& key) const;
  // Adds or replaces a plan and writes the file, together with what other processes have written since; the file is replaced in one
  // step, so that readers see the old or the new one.
  void add(const PlanKey& key, const StoredPlan& plan);

  const std::string& path() const { return path_; }
  size_t size() const { return plans_.size(); }
  const std::string& problem() const { return problem_; }  // of the last read or write; empty if all is well

 private:
  void merge();
  void write();

  std::string folder_, path_;
  PlanEnvironment environment_;
  StoredPlans plans_;
  std::string problem_;
};

}  // namespace kvasir::cuda
