#include "base/builtin_files.h"

#include <algorithm>

namespace engine {
namespace {

std::span<const BuiltinFile> all_files;

}  // namespace

void set_builtin_files(std::span<const BuiltinFile> files) { all_files = files; }

const BuiltinFile* find_builtin_file(std::string_view path) {
  const auto found = std::find_if(all_files.begin(), all_files.end(), [&](const BuiltinFile& file) { return file.path == path; });
  return found == all_files.end() ? nullptr : &*found;
}

bool is_builtin_directory(std::string_view directory) {
  return std::any_of(all_files.begin(), all_files.end(), [&](const BuiltinFile& file) {
    return file.path.size() > directory.size() && file.path.starts_with(directory) && file.path[directory.size()] == '/';
  });
}

}  // namespace engine
