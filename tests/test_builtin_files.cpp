#include "base/builtin_files.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/safetensors.h"

using namespace engine;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// The files of one test; afterwards there are none.
struct Builtin {
  explicit Builtin(std::span<const BuiltinFile> files) { set_builtin_files(files); }
  ~Builtin() { set_builtin_files({}); }
};

}  // namespace

TEST_CASE("builtin files are found by their whole path") {
  const std::string text = "{\"a\": 1}";
  const std::array<BuiltinFile, 2> files = {{{"demo:/a.json", bytes_of(text)}, {"demo:/sub/b", {}}}};
  const Builtin builtin(files);
  struct {
    const char* path;
    bool file, directory;
  } rows[] = {{"demo:/a.json", true, false}, {"demo:/sub/b", true, false}, {"demo:", false, true},    {"demo:/sub", false, true}, {"demo:/a", false, false},
              {"demo:/a.json/", false, false}, {"dem", false, false},     {"", false, false},        {"demo", false, false},     {"demo:/A.json", false, false}};
  for (const auto& row : rows) {
    CAPTURE(row.path);
    CHECK((find_builtin_file(row.path) != nullptr) == row.file);
    CHECK(is_builtin_directory(row.path) == row.directory);
  }
}

TEST_CASE("builtin files are read and mapped like others, and gone with their table") {
  const std::string text = "{\"a\": 1}";
  const std::array<BuiltinFile, 2> files = {{{"demo:/a.json", bytes_of(text)}, {"demo:/empty", {}}}};
  {
    const Builtin builtin(files);
    CHECK(read_json_file("demo:/a.json", 100) == Json({{"a", 1}}));
    CHECK_THROWS_AS(read_text_file("demo:/a.json", 3), Error);
    MappedFile file("demo:/a.json");
    CHECK(file.bytes().data() == bytes_of(text).data());
    file.will_need(0, text.size());
    file.dont_need(0, text.size());
    const MappedFile moved = std::move(file);
    CHECK(moved.bytes().size() == text.size());
    CHECK(std::memcmp(moved.bytes().data(), text.data(), text.size()) == 0);  // not unmapped with the one moved from
    CHECK(MappedFile("demo:/empty").bytes().empty());
    CHECK_THROWS_AS(MappedFile("demo:/other"), Error);
  }
  CHECK_THROWS_AS(MappedFile("demo:/a.json"), Error);
}

TEST_CASE("a builtin checkpoint") {
  const std::string header = R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  std::string content(8, '\0');
  content[0] = static_cast<char>(header.size());
  content += header + "\1\2\3\4";
  const std::array<BuiltinFile, 1> files = {{{"demo:/model.safetensors", bytes_of(content)}}};
  const Builtin builtin(files);
  const Checkpoint checkpoint("demo:");
  REQUIRE(checkpoint.find("x") != nullptr);
  CHECK(static_cast<const char*>(static_cast<const void*>(checkpoint.find("x")->data))[3] == 4);
}
