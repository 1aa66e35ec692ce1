#include "hub/blob.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "hub/stream.h"

namespace engine::hub {
namespace {

constexpr size_t read_bytes = 1 << 20;
constexpr useconds_t lock_poll_us = 100'000;

bool is_whole(const std::string& path, uint64_t size) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && static_cast<uint64_t>(info.st_size) == size;
}

}  // namespace

Blob::Blob(const std::string& folder, const RemoteFile& file, const std::atomic<bool>* stop)
    : file_(file), path_(folder + "/" + file.hash), temporary_(path_ + ".incomplete") {
  if (is_whole(path_, file_.size)) return;
  open_locked(stop);
  if (is_whole(path_, file_.size)) {  // by the process that had the lock before
    ::close(std::exchange(fd_, -1));
    ::unlink(temporary_.c_str());
    return;
  }
  begin_hash();
  struct stat info = {};
  if (::fstat(fd_, &info) != 0) fail("cannot read");
  if (static_cast<uint64_t>(info.st_size) > file_.size) {
    start_over();
    return;
  }
  std::vector<char> bytes(read_bytes);
  for (;;) {
    if (stop != nullptr && *stop) {
      ::close(std::exchange(fd_, -1));
      throw Interrupted{};
    }
    const ssize_t n = ::read(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read");
    if (n == 0) break;
    std::visit([&](auto& hash) { hash.update({bytes.data(), static_cast<size_t>(n)}); }, hash_);
    n_bytes_ += static_cast<uint64_t>(n);
  }
  resumed_ = n_bytes_ > 0;
}

Blob::~Blob() {
  if (fd_ >= 0) ::close(fd_);
}

void Blob::fail(const char* what) {
  const int reason = errno;
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));  // no destructor follows a constructor that throws
  throw Error(temporary_ + ": " + what + ": " + std::strerror(reason), reason == ENOSPC ? "HF_HUB_CACHE=DIRECTORY puts the cache elsewhere" : "");
}

void Blob::open_locked(const std::atomic<bool>* stop) {
  for (;;) {
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) fail("cannot write");
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == ENOLCK || errno == ENOTSUP || errno == ENOSYS) return;  // a file system without locks
      if (errno != EWOULDBLOCK && errno != EINTR) fail("cannot lock");
      if (stop != nullptr && *stop) {
        ::close(std::exchange(fd_, -1));
        throw Interrupted{};
      }
      ::usleep(lock_poll_us);
    }
    // The one who had it may have given it its final name, or deleted it: then the lock is on a file that is nobody's.
    struct stat mine = {}, now = {};
    if (::fstat(fd_, &mine) == 0 && ::stat(temporary_.c_str(), &now) == 0 && mine.st_ino == now.st_ino && mine.st_dev == now.st_dev) return;
    ::close(std::exchange(fd_, -1));
  }
}

void Blob::begin_hash() {
  if (file_.hash.size() == 64) {
    hash_ = Sha256();
    return;
  }
  Sha1 git;
  git.update("blob " + std::to_string(file_.size) + std::string(1, '\0'));
  hash_ = git;
}

void Blob::append(std::string_view bytes) {
  if (bytes.size() > file_.size - n_bytes_) throw Error(file_.path + ": expected " + std::to_string(file_.size) + " bytes, got more");
  std::visit([&](auto& hash) { hash.update(bytes); }, hash_);
  n_bytes_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void Blob::start_over() {
  if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0) fail("cannot write");
  n_bytes_ = 0;
  resumed_ = false;
  begin_hash();
}

bool Blob::commit() {
  if (std::visit([](auto& hash) { return hash.hex(); }, hash_) != file_.hash) {
    start_over();
    ::unlink(temporary_.c_str());
    ::close(std::exchange(fd_, -1));
    return false;
  }
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail("cannot write");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot rename");
  ::close(std::exchange(fd_, -1));
  return true;
}

}  // namespace engine::hub
