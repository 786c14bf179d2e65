// Errors that cross to JavaScript: a stable code (a row of lib/utils/errors.ts) and a sentence.
#pragma once

#include <cstdarg>
#include <stdexcept>
#include <string>

namespace kvasir {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const noexcept { return code_; }

 private:
  const char* code_;  // always a string literal
};

inline constexpr const char* kTensorError = "ERR_KVASIR_TENSOR";
inline constexpr const char* kDisposedError = "ERR_KVASIR_DISPOSED";
inline constexpr const char* kMemoryError = "ERR_KVASIR_OUT_OF_MEMORY";
inline constexpr const char* kCheckpointError = "ERR_KVASIR_CHECKPOINT";
inline constexpr const char* kUnsupportedError = "ERR_KVASIR_UNSUPPORTED";
inline constexpr const char* kNativeError = "ERR_KVASIR_NATIVE";
inline constexpr const char* kDeviceError = "ERR_KVASIR_DEVICE";
inline constexpr const char* kLaunchError = "ERR_KVASIR_LAUNCH";
inline constexpr const char* kRankError = "ERR_KVASIR_RANK";

// printf-style; throws Error(code, ...).
[[noreturn]] void fail(const char* code, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace kvasir
