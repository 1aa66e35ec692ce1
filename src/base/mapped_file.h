// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace engine {

/// Owns a read-only, shared mapping of a whole regular file, or shows a builtin one. Movable. Pages are loaded by the kernel when touched and can be
/// dropped by it at any time, so mapped weights count as file cache and not as the process's own memory.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error if the path is not a readable regular file. An empty file maps to an empty span.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Tells the kernel that [begin, begin + size) will be read soon.
  void will_need(size_t begin, size_t size) const;
  /// Tells the kernel that [begin, begin + size) is not needed any more (its pages leave this process's resident set).
  void dont_need(size_t begin, size_t size) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;  // false: empty, or builtin
};

}  // namespace engine
