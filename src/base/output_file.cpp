#include "base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace engine {

namespace fs = std::filesystem;

OutputFile::OutputFile(const std::string& path, mode_t mode) : path_(path), target_(path) {
  std::error_code error;
  if (path.empty() || fs::is_directory(path, error)) throw Error(path + ": expected a file name, got a directory");
  if (fs::is_symlink(path, error) && fs::exists(path, error)) target_ = fs::canonical(path, error).string();
  if (error) target_ = path;
  const bool in_place = fs::exists(target_, error) && !fs::is_regular_file(target_, error);
  if (!in_place) temporary_ = target_ + ".tmp" + std::to_string(getpid());
  fd_ = in_place ? open(target_.c_str(), O_WRONLY | O_CLOEXEC) : open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd_ < 0) {
    temporary_.clear();  // whoever it belongs to
    fail(errno);
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void OutputFile::fail(int reason) { throw Error(path_ + ": cannot write: " + std::strerror(reason)); }

void OutputFile::write(const void* data, size_t n_bytes) {
  const char* p = static_cast<const char*>(data);
  while (n_bytes > 0) {
    const ssize_t n = ::write(fd_, p, std::min(n_bytes, size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? errno : EIO);
    p += n;
    n_bytes -= static_cast<size_t>(n);
  }
}

void OutputFile::commit() {
  if (fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail(errno);  // those: nothing to synchronize there
  const int closed = close(fd_);
  fd_ = -1;
  if (closed != 0) fail(errno);
  if (temporary_.empty()) return;
  if (rename(temporary_.c_str(), target_.c_str()) != 0) fail(errno);
  temporary_.clear();
}

}  // namespace engine
