// Files inside the program, under paths that no file system has: the demo model's directory.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace engine {

struct BuiltinFile {
  std::string_view path;  // "demo:/config.json"
  std::span<const std::byte> bytes;
};

/// From now on these files can be mapped and read like any other. They must outlive every use; call once, before any thread runs.
void set_builtin_files(std::span<const BuiltinFile> files);

/// Null if there is no such file.
const BuiltinFile* find_builtin_file(std::string_view path);

/// True if a file below `directory` is there.
bool is_builtin_directory(std::string_view directory);

}  // namespace engine
