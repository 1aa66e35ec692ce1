#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/builtin_files.h"
#include "base/error.h"

namespace engine {
namespace {

/// madvise on the whole pages inside (or, `outward`, around) [begin, begin + size).
void advise(const std::byte* base, size_t file_size, size_t begin, size_t size, int advice, bool outward) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (begin >= file_size || size == 0) return;
  size_t end = size > file_size - begin ? file_size : begin + size;
  size_t first = outward ? begin / page * page : (begin + page - 1) / page * page;
  if (!outward && end != file_size) end = end / page * page;
  if (first < end) madvise(const_cast<std::byte*>(base) + first, end - first, advice);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  if (const BuiltinFile* builtin = find_builtin_file(path)) {
    data_ = builtin->bytes.data();
    size_ = builtin->bytes.size();
    return;
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a named pipe must not wait for a writer
  if (fd < 0) throw Error(path + ": cannot open: " + std::strerror(errno));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    throw Error(path + ": expected a regular file");
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* address = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    if (address == MAP_FAILED) throw Error(path + ": cannot map " + std::to_string(size_) + " bytes: " + std::strerror(error));
    // Has weights read into the page cache in pages of this size where the kernel and the file system can (ext4 from Linux 6.16 on, XFS from 5.18).
    constexpr size_t huge_page = size_t{2} << 20;
    if (size_ >= huge_page) madvise(address, size_, MADV_HUGEPAGE);
    data_ = static_cast<const std::byte*>(address);
    mapped_ = true;
  } else {
    close(fd);
  }
}

MappedFile::~MappedFile() {
  if (mapped_) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, false)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

void MappedFile::will_need(size_t begin, size_t size) const {
  if (mapped_) advise(data_, size_, begin, size, MADV_WILLNEED, true);
}

void MappedFile::dont_need(size_t begin, size_t size) const {
  if (mapped_) advise(data_, size_, begin, size, MADV_DONTNEED, false);
}

}  // namespace engine
