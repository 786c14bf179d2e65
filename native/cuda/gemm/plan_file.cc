#include "cuda/gemm/plan_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace kvasir::cuda {

namespace {

// Part of the file's name too, so that versions of this format do not overwrite each other.
constexpr int kFormat = 1;
constexpr int64_t kMostBytes = 64 << 20;  // a file beyond this is not one of ours: a plan is about 250 bytes
constexpr int kLockTries = 200;           // of 5 ms each

// FNV-1a: finds damage, not malice.
uint64_t checksum(std::string_view text) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

template <class T>
void append(std::string& line, T value, int base = 10) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, base).ptr;
  if (!line.empty()) line += ' ';
  line.append(digits, end);
}

void appendFloat(std::string& line, float value) {
  char digits[32];
  line += ' ';
  line.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

// Numbers of a line, one after the other; false from the first one that is not there.
class Reader {
 public:
  explicit Reader(std::string_view line) : at_(line.data()), end_(line.data() + line.size()) {}
  template <class T>
  bool number(T& value, int base = 10) {
    skip();
    return accept(std::from_chars(at_, end_, value, base));
  }
  bool real(float& value) {
    skip();
    return accept(std::from_chars(at_, end_, value));
  }
  bool atEnd() const { return at_ == end_; }

 private:
  void skip() {
    if (at_ != end_ && *at_ == ' ') ++at_;
  }
  bool accept(std::from_chars_result result) {
    at_ = result.ptr;
    return result.ec == std::errc();
  }
  const char* at_;
  const char* end_;
};

std::string header(const PlanEnvironment& e) {
  std::string device = e.device;
  for (char& c : device)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return "kvasir-gemm-plans " + std::to_string(kFormat) + "; cublasLt " + std::to_string(e.library) + "; capability " + e.capability + "; multiprocessors " +
         std::to_string(e.multiprocessors) + "; device " + device;
}

std::string planLine(const PlanKey& key, const StoredPlan& plan) {
  std::string line;
  for (const int64_t part : key) append(line, part);
  append(line, plan.candidate);
  append(line, plan.candidates);
  appendFloat(line, plan.microseconds);
  for (const uint64_t part : plan.algorithm) append(line, part, 16);
  append(line, checksum(line), 16);
  return line;
}

bool parseLine(std::string_view line, PlanKey& key, StoredPlan& plan) {
  const size_t last = line.rfind(' ');
  if (last == std::string_view::npos) return false;
  uint64_t sum = 0;
  Reader tail(line.substr(last));
  if (!tail.number(sum, 16) || !tail.atEnd() || sum != checksum(line.substr(0, last))) return false;
  Reader reader(line.substr(0, last));
  for (int64_t& part : key)
    if (!reader.number(part)) return false;
  if (!reader.number(plan.candidate) || !reader.number(plan.candidates) || !reader.real(plan.microseconds)) return false;
  for (uint64_t& part : plan.algorithm)
    if (!reader.number(part, 16)) return false;
  return reader.atEnd();
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  File(const std::string& path, int flags) : File(open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);  // which also gives a lock back
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::string systemError() { return std::generic_category().message(errno); }

// The text of a file, empty if there is none. False with `problem` if it is there and cannot be read.
bool readText(const std::string& path, std::string& text, std::string& problem) {
  const File file(path, O_RDONLY | O_NONBLOCK);  // a pipe of that name must not stop us
  if (file.fd() < 0 && errno == ENOENT) return true;
  struct stat info{};
  if (file.fd() < 0 || fstat(file.fd(), &info) != 0) {
    problem = path + " cannot be read: " + systemError();
    return false;
  }
  if (!S_ISREG(info.st_mode) || info.st_size > kMostBytes) {
    problem = path + " is not a file of plans";
    return false;
  }
  text.resize(static_cast<size_t>(info.st_size));
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t count = read(file.fd(), text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      problem = path + " cannot be read: " + systemError();
      return false;
    }
    if (count == 0) break;
    filled += static_cast<size_t>(count);
  }
  text.resize(filled);
  return true;
}

bool writeAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

// Waits for processes that write the same file. Where files cannot be locked, or another process keeps the lock, it goes on without:
// what two processes add at the same moment may then be lost for one of them, until that one writes again.
void lockShortly(int fd) {
  for (int attempt = 0; fd >= 0 && attempt < kLockTries; ++attempt) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR)) return;
    usleep(5000);
  }
}

}  // namespace

std::string serializePlans(const PlanEnvironment& environment, const StoredPlans& plans) {
  std::string text = header(environment) + '\n';
  for (const auto& [key, plan] : plans) text += planLine(key, plan) + '\n';
  return text;
}

std::optional<StoredPlans> parsePlans(std::string_view text, const PlanEnvironment& environment) {
  StoredPlans plans;
  for (bool first = true; !text.empty(); first = false) {
    const size_t length = text.find('\n');
    const std::string_view line = text.substr(0, length);
    if (first && line != header(environment)) return std::nullopt;
    if (length == std::string_view::npos) break;  // cut off
    text.remove_prefix(length + 1);
    PlanKey key{};
    StoredPlan plan;
    if (!first && parseLine(line, key, plan)) plans[key] = plan;
  }
  return plans;
}

std::string planFileName(const PlanEnvironment& e) {
  std::string name = e.device + "-" + e.capability + "-" + std::to_string(e.multiprocessors) + "-cublasLt" + std::to_string(e.library);
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
    if (!plain) c = '_';
  }
  return "v" + std::to_string(kFormat) + "-" + name + ".plans";
}

PlanFile::PlanFile(const std::string& folder, PlanEnvironment environment)
    : folder_(folder), path_(folder + "/" + planFileName(environment)), environment_(std::move(environment)) {
  merge();
}

const StoredPlan* PlanFile::find(const PlanKey& key) const {
  const auto found = plans_.find(key);
  return found == plans_.end() ? nullptr : &found->second;
}

// Takes in what the file holds and this process does not know; its own timings stay.
void PlanFile::merge() {
  std::string text;
  if (!readText(path_, text, problem_) || text.empty()) return;
  std::optional<StoredPlans> read = parsePlans(text, environment_);
  if (!read) {
    problem_ = path_ + " is not a file of plans for this GPU and library; it is replaced by the next plan";
    return;
  }
  plans_.merge(*read);
}

void PlanFile::add(const PlanKey& key, const StoredPlan& plan) {
  plans_[key] = plan;
  problem_.clear();
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    problem_ = folder_ + " cannot be made: " + error.message();
    return;
  }
  const File lock(path_ + ".lock", O_RDWR | O_CREAT);
  lockShortly(lock.fd());
  merge();
  problem_.clear();  // whatever lay there is replaced
  write();
}

void PlanFile::write() {
  std::string temporary = path_ + ".XXXXXX";
  const File file(mkostemp(temporary.data(), O_CLOEXEC));
  if (file.fd() < 0) {
    problem_ = folder_ + " cannot be written to: " + systemError();
    return;
  }
  const bool written = writeAll(file.fd(), serializePlans(environment_, plans_));
  if (written && rename(temporary.c_str(), path_.c_str()) == 0) return;
  problem_ = path_ + " cannot be " + (written ? "replaced: " : "written: ") + systemError();
  unlink(temporary.c_str());
}

}  // namespace kvasir::cuda
