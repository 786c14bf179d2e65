#include "core/error.h"

#include <cstdio>

namespace kvasir {

void fail(const char* code, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Error(code, text);
}

}  // namespace kvasir
