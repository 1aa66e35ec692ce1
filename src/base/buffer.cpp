#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <string>

#include "base/error.h"

namespace engine {

Buffer::Buffer(size_t n_bytes, bool huge_pages) : size_(n_bytes) {
  if (n_bytes == 0) return;
  constexpr size_t huge = size_t{2} << 20;
  const bool align_huge = huge_pages && n_bytes >= huge;
  mapped_ = n_bytes + (align_huge ? 2 * huge : 0);
  base_ = mapped_ < n_bytes ? MAP_FAILED
                            : mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base_ == MAP_FAILED) {
    base_ = nullptr;
    throw Error("memory: cannot get " + std::to_string(n_bytes) + " bytes from the system");
  }
  auto address = reinterpret_cast<uintptr_t>(base_);
  if (align_huge) address = (address + huge - 1) / huge * huge;
  data_ = reinterpret_cast<std::byte*>(address);
  if (align_huge) madvise(data_, (n_bytes + huge - 1) / huge * huge, MADV_HUGEPAGE);
}

Buffer::~Buffer() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

}  // namespace engine
