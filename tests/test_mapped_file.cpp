#include "base/mapped_file.h"

#include <doctest/doctest.h>

#include <fstream>
#include <optional>
#include <string>

#include "base/error.h"
#include "temp_dir.h"

using namespace engine;
using engine::test::TempDir;

namespace {

/// Whether the kernel was asked for huge pages where `path` is mapped; nothing where it does not tell.
std::optional<bool> asks_for_huge_pages(const std::string& path) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) return std::nullopt;
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.ends_with(path)) inside = true;
    if (inside && line.starts_with("VmFlags:")) return (line + " ").find(" hg ") != std::string::npos;
  }
  return std::nullopt;
}

}  // namespace

TEST_CASE("mapped files: bytes, huge pages from 2 MiB on, and what cannot be mapped") {
  const TempDir dir;
  for (const size_t size : {size_t{0}, size_t{5}, size_t{2} << 20, (size_t{3} << 20) + 5}) {
    CAPTURE(size);
    std::string text(size, 'a');
    if (size > 0) text.back() = 'z';
    const std::string path = dir.write("file", text);
    const MappedFile file(path);
    REQUIRE(file.bytes().size() == size);
    if (size == 0) continue;
    CHECK(static_cast<char>(file.bytes().back()) == 'z');
    const std::optional<bool> huge = asks_for_huge_pages(path);
    if (huge) CHECK(*huge == (size >= size_t{2} << 20));
    else MESSAGE("SKIPPED: the kernel does not tell how memory is mapped");
  }
  CHECK_THROWS_AS(MappedFile(dir.path()), Error);
  CHECK_THROWS_AS(MappedFile(dir.file("missing")), Error);
}
