// Chat templates that come with the program, for models that have none of their own.
#pragma once

#include <span>
#include <string_view>

namespace engine {

struct BuiltinTemplate {
  std::string_view name;
  std::string_view source;
};

std::span<const BuiltinTemplate> builtin_templates();

}  // namespace engine
