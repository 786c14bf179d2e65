// What goes wrong inside the plugin.
#pragma once

#include <stdexcept>
#include <string>

#include "comm/gloo_plugin.h"

namespace kvasir::gloo_plugin {

struct Failure : std::runtime_error {
  Failure(KvasirGlooStatus code, const std::string& message) : std::runtime_error(message), status(code) {}
  KvasirGlooStatus status;
};

}  // namespace kvasir::gloo_plugin
