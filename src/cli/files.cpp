#include "cli/files.h"

#include <errno.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/output_file.h"

namespace engine::cli {
namespace {

void make_directories(const std::filesystem::path& directory, mode_t mode) {
  std::error_code error;
  if (directory.empty() || std::filesystem::is_directory(directory, error)) return;
  make_directories(directory.parent_path(), mode);
  if (::mkdir(directory.c_str(), mode) == 0) return;
  const int reason = errno;
  if (!std::filesystem::is_directory(directory, error)) {  // somebody else may have made it meanwhile
    throw Error(directory.string() + ": cannot make the directory: " + std::strerror(reason));
  }
}

}  // namespace

void make_private_directory(const std::filesystem::path& directory) { make_directories(directory, 0700); }

void write_file_atomically(const std::string& path, std::string_view text, mode_t mode) {
  make_directories(std::filesystem::path(path).parent_path(), 0777);
  OutputFile file(path, mode);
  file.write(text.data(), text.size());
  file.commit();
}

std::string expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || path.rfind("~/", 0) != 0) return path;
  return home + path.substr(1);
}

}  // namespace engine::cli
