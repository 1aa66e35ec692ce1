#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace engine::cli {
namespace {

void make_directories(const std::filesystem::path& directory, mode_t mode) {
  if (directory.empty() || std::filesystem::is_directory(directory)) return;
  make_directories(directory.parent_path(), mode);
  if (::mkdir(directory.c_str(), mode) == 0) return;
  const int reason = errno;
  if (!std::filesystem::is_directory(directory)) {  // somebody else may have made it meanwhile
    throw Error(directory.string() + ": cannot make the directory: " + std::strerror(reason));
  }
}

// Null if all went well, else what failed.
const char* write_and_sync(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return "cannot write";
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (::fsync(fd) != 0 && errno != EINVAL) return "cannot write";
  return nullptr;
}

}  // namespace

void make_private_directory(const std::filesystem::path& directory) { make_directories(directory, 0700); }

void write_file_atomically(const std::string& path, std::string_view text, mode_t mode) {
  if (path.empty() || std::filesystem::is_directory(path)) throw Error(path + ": expected a file name, got a directory");
  make_directories(std::filesystem::path(path).parent_path(), 0777);
  const std::string temporary = path + ".tmp" + std::to_string(::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) throw Error(path + ": cannot write: " + std::strerror(errno));
  const char* problem = write_and_sync(fd, text);
  int reason = errno;
  if (::close(fd) != 0 && problem == nullptr) problem = "cannot write", reason = errno;
  if (problem == nullptr && ::rename(temporary.c_str(), path.c_str()) != 0) problem = "cannot rename", reason = errno;
  if (problem == nullptr) return;
  ::unlink(temporary.c_str());
  throw Error(path + ": " + problem + ": " + std::strerror(reason));
}

std::string expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || path.rfind("~/", 0) != 0) return path;
  return home + path.substr(1);
}

}  // namespace engine::cli
