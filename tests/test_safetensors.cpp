#include "base/safetensors.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "temp_dir.h"

using namespace engine;
using test::TempDir;

namespace {

std::string size_bytes(uint64_t n) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(n >> (8 * i));
  return out;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  std::string data(data_bytes, '\0');
  for (size_t i = 0; i < data_bytes; ++i) data[i] = static_cast<char>(i);
  return size_bytes(header.size()) + header + data;
}

std::string message_of(const std::string& path) {
  try {
    const SafetensorsFile file(path);
  } catch (const Error& e) {
    return e.message;
  }
  return "accepted";
}

/// One tensor's entry of a header.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string f32_file(const std::string& name, int n) {
  return file_of("{" + entry(name, "F32", "[" + std::to_string(n) + "]", "[0," + std::to_string(4 * n) + "]") + "}", 4 * n);
}

}  // namespace

TEST_CASE("a good file") {
  const TempDir dir;
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\",\"empty\":\"\"}," + entry("b", "F32", "[2,3]", "[4,28]") + "," +
                             entry("a", "I32", "[]", "[0,4]") + "," + entry("z", "F16", "[0,5]", "[28,28]") + "," +
                             entry("\\u00e9/..", "U8", "[1]", "[28,29]") + "}   \n";
  const SafetensorsFile file(dir.write("f", file_of(header, 29)));
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"empty", ""}});
  REQUIRE(file.tensors().size() == 4);
  const TensorView& b = file.tensors().at("b");
  CHECK(b.dtype == DType::f32);
  CHECK(b.shape == Shape{2, 3});
  CHECK(b.n_bytes == 24);
  CHECK(std::to_integer<int>(b.data[0]) == 4);
  CHECK(file.tensors().at("a").shape.empty());
  CHECK(file.tensors().at("a").n_elements() == 1);
  CHECK(file.tensors().at("z").n_elements() == 0);
  CHECK(std::to_integer<int>(file.tensors().at("\u00e9/..").data[0]) == 28);
}

TEST_CASE("every dtype of the format, with its size") {
  const TempDir dir;
  for (int i = 0; i <= static_cast<int>(DType::u64); ++i) {
    const DType dtype = static_cast<DType>(i);
    const std::string name(dtype_name(dtype));
    CAPTURE(name);
    const int bytes = 12 * dtype_bits(dtype) / 8;
    const auto text = [&](int n) { return file_of("{" + entry("t", name, "[3,4]", "[0," + std::to_string(n) + "]") + "}", n); };
    const SafetensorsFile file(dir.write("f", text(bytes)));
    CHECK(file.tensors().at("t").dtype == dtype);
    CHECK(file.tensors().at("t").n_bytes == static_cast<size_t>(bytes));
    CHECK(message_of(dir.write("g", text(bytes + 1))).find("data_offsets") != std::string::npos);
    CHECK(message_of(dir.write("h", text(bytes - 1))).find("data_offsets") != std::string::npos);
  }
}

TEST_CASE("breaches of the format are refused in one line that names file and tensor") {
  struct Row {
    const char* what;
    std::string header;
    size_t data_bytes;
    const char* expected;
  };
  const std::string two_power_62 = "4611686018427387904";
  const Row rows[] = {
      {"not an object", "[]", 0, "expected a JSON object"},
      {"leading blank", " {}", 0, "expected a JSON object"},
      {"no JSON", "{\"a\":", 0, "expected JSON"},
      {"empty header", "", 0, "expected a JSON object"},
      {"not UTF-8", "{\"\xff\":1}", 0, "expected JSON"},
      {"tensor is no object", "{\"t\":1}", 0, "'t'"},
      {"no dtype", "{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'t'"},
      {"no shape", "{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'t'"},
      {"no offsets", "{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'t'"},
      {"unknown dtype", "{" + entry("t", "F31", "[1]", "[0,4]") + "}", 4, "dtype"},
      {"negative dimension", "{" + entry("t", "F32", "[-1]", "[0,4]") + "}", 4, "shape"},
      {"fractional dimension", "{" + entry("t", "F32", "[1.0]", "[0,4]") + "}", 4, "shape"},
      {"dimension is a string", "{" + entry("t", "F32", "[\"1\"]", "[0,4]") + "}", 4, "shape"},
      {"dimension above 2^64", "{" + entry("t", "F32", "[18446744073709551617]", "[0,4]") + "}", 4, "shape"},
      {"product overflows to a fitting one", "{" + entry("t", "F32", "[" + two_power_62 + ",4,1]", "[0,0]") + "}", 0, "shape"},
      {"product overflows on the way to zero", "{" + entry("t", "F32", "[" + two_power_62 + ",2,0]", "[0,0]") + "}", 0, "shape"},
      {"bytes overflow", "{" + entry("t", "F64", "[" + two_power_62 + "]", "[0,0]") + "}", 0, "shape"},
      {"half a byte", "{" + entry("t", "F4", "[3]", "[0,2]") + "}", 2, "shape"},
      {"three offsets", "{" + entry("t", "F32", "[1]", "[0,4,4]") + "}", 4, "data_offsets"},
      {"offsets reversed", "{" + entry("t", "F32", "[1]", "[4,0]") + "}", 4, "data_offsets"},
      {"negative offset", "{" + entry("t", "F32", "[1]", "[-4,0]") + "}", 4, "data_offsets"},
      {"offsets beyond the file", "{" + entry("t", "F32", "[2]", "[0,8]") + "}", 7, "cut short"},
      {"hole at the start", "{" + entry("t", "F32", "[1]", "[4,8]") + "}", 8, "holes"},
      {"hole between", "{" + entry("t", "U8", "[1]", "[0,1]") + "," + entry("u", "U8", "[1]", "[2,3]") + "}", 3, "holes"},
      {"overlap", "{" + entry("t", "U8", "[2]", "[0,2]") + "," + entry("u", "U8", "[2]", "[1,3]") + "}", 3, "overlap"},
      {"same place twice", "{" + entry("t", "U8", "[2]", "[0,2]") + "," + entry("u", "U8", "[2]", "[0,2]") + "}", 2, "overlap"},
      {"bytes left over", "{" + entry("t", "U8", "[2]", "[0,2]") + "}", 3, "2 bytes of data, got 3"},
      {"data without tensors", "{}", 1, "0 bytes of data, got 1"},
      {"name twice", "{" + entry("t", "U8", "[1]", "[0,1]") + "," + entry("t", "U8", "[1]", "[1,2]") + "}", 2, "'t' stands twice"},
      {"key twice in a tensor", "{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "stands twice"},
      {"metadata is no object", "{\"__metadata__\":[]}", 0, "__metadata__"},
      {"metadata holds a number", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
      {"metadata holds an object", "{\"__metadata__\":{\"a\":{}}}", 0, "__metadata__"},
      {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "stands twice"},
      {"too many dimensions", "{" + entry("t", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]") + "}", 1, "shape"},
      {"deep nesting", "{\"t\":" + std::string(100'000, '[') + "}", 0, "nesting"},
  };
  const TempDir dir;
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const std::string path = dir.write("bad.safetensors", file_of(row.header, row.data_bytes));
    std::string message, hint;
    try {
      const SafetensorsFile file(path);
      message = "accepted";
    } catch (const Error& e) {
      message = e.message;
      hint = e.hint;
    }
    CHECK((message + hint).find(row.expected) != std::string::npos);
    CHECK(message.rfind(path + ": ", 0) == 0);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("an unknown key in a tensor's entry is passed over, as the reference implementation does") {
  const TempDir dir;
  const std::string header = "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"note\":[1]}}";
  CHECK(message_of(dir.write("f", file_of(header, 1))) == "accepted");
}

TEST_CASE("header sizes") {
  const TempDir dir;
  CHECK(message_of(dir.write("empty", "")).find("got 0 bytes") != std::string::npos);
  CHECK(message_of(dir.write("short", "1234567")).find("got 7 bytes") != std::string::npos);
  CHECK(message_of(dir.write("zero", size_bytes(0))).find("JSON object") != std::string::npos);
  CHECK(message_of(dir.write("past", size_bytes(3) + "{}")).find("header: expected 3 bytes") != std::string::npos);
  CHECK(message_of(dir.write("huge", size_bytes(~uint64_t{0}) + "{}")).find("100 MB") != std::string::npos);
  CHECK(message_of(dir.write("over", size_bytes(100'000'001) + "{}")).find("100 MB") != std::string::npos);
  // A header of exactly 100 MB is allowed, one byte more is not, even if the file has it.
  std::string header = "{" + entry("t", "U8", "[1]", "[0,1]") + "}";
  header.append(100'000'000 - header.size(), ' ');
  CHECK(message_of(dir.write("limit", file_of(header, 1))) == "accepted");
  header += ' ';
  CHECK(message_of(dir.write("limit", file_of(header, 1))).find("100 MB") != std::string::npos);
}

TEST_CASE("every truncation of a good file is refused") {
  const TempDir dir;
  const std::string whole = file_of("{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "U8", "[3]", "[8,11]") + "}", 11);
  CHECK(message_of(dir.write("f", whole)) == "accepted");
  for (size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    CHECK(message_of(dir.write("f", whole.substr(0, n))) != "accepted");
  }
}

TEST_CASE("paths that are not regular files") {
  const TempDir dir;
  CHECK(message_of(dir.file("missing")).find("missing: ") != std::string::npos);
  CHECK(message_of(dir.path()) != "accepted");
  REQUIRE(mkfifo(dir.file("fifo").c_str(), 0600) == 0);
  CHECK(message_of(dir.file("fifo")).find("regular file") != std::string::npos);  // and does not wait for a writer
}

TEST_CASE("Checkpoint: one file, or the index's shards and never a glob") {
  const TempDir dir;
  CHECK_THROWS_WITH_AS(Checkpoint(dir.path()), doctest::Contains("got neither"), Error);
  dir.write("other.safetensors", f32_file("other", 1));
  CHECK_THROWS_AS(Checkpoint(dir.path()), Error);

  dir.write("s1.safetensors", f32_file("a", 1));
  dir.write("s2.safetensors", f32_file("b", 2));
  dir.write("model.safetensors.index.json",
            R"({"metadata": {"total_size": 12}, "weight_map": {"b": "s2.safetensors", "a": "s1.safetensors"}})");
  const Checkpoint sharded(dir.path());
  CHECK(sharded.files().size() == 2);
  CHECK(sharded.tensors().size() == 2);
  CHECK(sharded.total_bytes() == 12);
  REQUIRE(sharded.find("b") != nullptr);
  CHECK(sharded.find("b")->shape == Shape{2});
  CHECK(sharded.find("other") == nullptr);

  dir.write("model.safetensors", f32_file("whole", 5));
  const Checkpoint single(dir.path());
  CHECK(single.tensors().size() == 1);
  CHECK(single.find("whole") != nullptr);
}

TEST_CASE("Checkpoint: bad indices") {
  const TempDir outer;
  const std::string directory = outer.file("model");
  REQUIRE(mkdir(directory.c_str(), 0700) == 0);
  outer.write("outside.safetensors", f32_file("a", 1));
  outer.write("model/inside.safetensors", f32_file("a", 1));
  REQUIRE(mkdir((directory + "/sub").c_str(), 0700) == 0);
  outer.write("model/sub/s.safetensors", f32_file("a", 1));

  struct Row {
    std::string index;
    const char* expected;
  };
  const auto naming = [](const std::string& file) { return R"({"weight_map": {"a": ")" + file + R"("}})"; };
  const Row rows[] = {
      {naming("../outside.safetensors"), "inside the directory"},
      {naming(outer.file("outside.safetensors")), "inside the directory"},
      {naming("sub/s.safetensors"), "inside the directory"},
      {naming("sub/../../outside.safetensors"), "inside the directory"},
      {naming(".."), "inside the directory"},
      {naming("."), "inside the directory"},
      {naming(""), "inside the directory"},
      {naming("inside.safetensors\\u0000.x"), "inside the directory"},
      {naming("absent.safetensors"), "absent.safetensors: "},
      {naming("sub"), "sub: "},
      {R"({"weight_map": {"a": 1}})", "'a'"},
      {R"({"weight_map": {"a": null}})", "'a'"},
      {R"({"weight_map": []})", "weight_map"},
      {R"({})", "weight_map"},
      {R"([])", "weight_map"},
      {R"({"weight_map": {"a": "inside.safetensors", "b": "inside.safetensors", "c": "inside.safetensors"}})",
       "b (in inside.safetensors), c (in inside.safetensors)"},
      {"{", "expected JSON"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.index);
    outer.write("model/model.safetensors.index.json", row.index);
    CHECK_THROWS_WITH_AS(Checkpoint{directory}, doctest::Contains(row.expected), Error);
  }
  outer.write("model/model.safetensors.index.json", naming("inside.safetensors"));
  CHECK(Checkpoint(directory).find("a") != nullptr);
}

TEST_CASE("write_safetensors: what is written is read back; data begins at a multiple of 8") {
  const TempDir dir;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> b = {7, 8, 9};
  const std::vector<int64_t> c = {-1};
  const auto bytes = [](const auto& v) { return reinterpret_cast<const std::byte*>(v.data()); };
  const NamedTensor tensors[] = {{"x.a", {DType::f32, {2, 3}, bytes(a), 24}},
                                 {"b \"\u00e9\"", {DType::u8, {3}, bytes(b), 3}},
                                 {"c", {DType::i64, {1, 1}, bytes(c), 8}},
                                 {"none", {DType::bf16, {0, 4}, nullptr, 0}}};
  const std::string path = dir.file("out.safetensors");
  write_safetensors(path, tensors, {{"format", "pt"}});
  const SafetensorsFile file(path);
  REQUIRE(file.tensors().size() == 4);
  CHECK(file.metadata().at("format") == "pt");
  for (const NamedTensor& t : tensors) {
    CAPTURE(t.name);
    const TensorView& got = file.tensors().at(t.name);
    CHECK(got.dtype == t.tensor.dtype);
    CHECK(got.shape == t.tensor.shape);
    REQUIRE(got.n_bytes == t.tensor.n_bytes);
    CHECK((t.tensor.n_bytes == 0 || std::memcmp(got.data, t.tensor.data, got.n_bytes) == 0));
  }
  CHECK((file.tensors().at("x.a").data - file.file().bytes().data()) % 8 == 0);

  write_safetensors(path, std::span(tensors, 1));  // replaces; nothing else is left in the directory
  CHECK(SafetensorsFile(path).tensors().size() == 1);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
  CHECK_THROWS_AS(write_safetensors(dir.file("no/such/dir"), tensors), Error);
  // A directory under the final name: the rename fails and the temporary file goes.
  REQUIRE(mkdir(dir.file("taken").c_str(), 0700) == 0);
  CHECK_THROWS_AS(write_safetensors(dir.file("taken"), tensors), Error);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);
}
