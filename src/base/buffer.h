// Large aligned memory straight from the system: zeroed, touched only when used, on huge pages where the system allows.
#pragma once

#include <cstddef>
#include <utility>

namespace engine {

/// Owns n_bytes of zeroed memory, aligned to 64 bytes at least (2 MB from 2 MB on). Pages that were never written take no memory.
class Buffer {
 public:
  Buffer() = default;
  /// Throws Error if the system has no more memory. `huge_pages`: ask for transparent huge pages (weights, which are read as a whole).
  explicit Buffer(size_t n_bytes, bool huge_pages = false);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
        base_(std::exchange(other.base_, nullptr)), mapped_(std::exchange(other.mapped_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data_); }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  void* base_ = nullptr;
  size_t mapped_ = 0;
};

}  // namespace engine
