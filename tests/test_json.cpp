#include "base/json.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/error.h"
#include "temp_dir.h"

using namespace engine;

namespace {

std::string error_of(std::string_view text, bool unique_keys = false) {
  try {
    parse_json(text, "F", unique_keys);
  } catch (const Error& e) {
    return e.message;
  }
  return "";
}

}  // namespace

TEST_CASE("parse_json keeps the order of keys and the types of numbers") {
  const Json j = parse_json(R"({"b": 1, "a": -2, "c": 1.5, "d": 18446744073709551615, "e": [true, null, "\u00e9\ud83d\ude00"]})", "F");
  CHECK(dump_json(j) == "{\"b\":1,\"a\":-2,\"c\":1.5,\"d\":18446744073709551615,\"e\":[true,null,\"\u00e9\U0001F600\"]}");
  CHECK(j["b"].is_number_unsigned());
  CHECK(j["a"].is_number_integer());
  CHECK(j["c"].is_number_float());
}

TEST_CASE("parse_json: a key that stands twice") {
  CHECK(dump_json(parse_json(R"({"a": 1, "b": 2, "a": 3})", "F")) == R"({"a":3,"b":2})");
  CHECK(error_of(R"({"a": 1, "b": 2, "a": 3})", true).find("'a'") != std::string::npos);
  CHECK(error_of(R"({"x": {"a": 1}, "y": {"a": 1}, "a": 0})", true) == "");
  CHECK(error_of(R"([{"x": {"k": 1, "k": 1}}])", true).find("'k'") != std::string::npos);
}

TEST_CASE("parse_json refuses what is not JSON in one line that names place and file") {
  struct Row {
    std::string text;
    const char* expected;
  };
  const Row rows[] = {
      {"", "F: expected JSON, got something else at line 1, column 1"},
      {"{\n  \"a\": 1,\n  \"b\" 2}", "line 3, column 7"},
      {"{} x", "line 1, column 4"},
      {"[1,]", "F: expected JSON"},
      {"{\"a\":1,}", "F: expected JSON"},
      {"NaN", "F: expected JSON"},
      {"// c\n1", "F: expected JSON"},
      {"\"\xff\"", "F: expected JSON"},
      {"\"\\ud800\"", "F: expected JSON"},
      {"\"a\nb\"", "F: expected JSON"},
      {"[1e999]", "F: "},
      {std::string("\"\0\"", 3), "F: expected JSON"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const std::string message = error_of(row.text);
    CHECK(message.find(row.expected) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("parse_json bounds nesting before it recurses") {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(error_of(nested(256)) == "");
  CHECK(error_of(nested(257)).find("nesting") != std::string::npos);
  CHECK(error_of(std::string(5'000'000, '[')).find("nesting") != std::string::npos);
  std::string objects;
  for (int i = 0; i < 300; ++i) objects += "{\"a\":";
  CHECK(error_of(objects).find("nesting") != std::string::npos);
  CHECK(error_of("\"" + std::string(1000, '[') + "\"") == "");  // brackets in a string do not count
  CHECK(error_of("\"\\\"" + std::string(1000, '[') + "\"") == "");
}

TEST_CASE("parse_json takes linear time in the members of an object") {
  // An index of a large mixture of experts has tens of thousands of names, a vocabulary hundreds of thousands.
  constexpr int n = 64'000;
  const auto object = [](int n_members) {
    std::string text = "{";
    for (int i = 0; i < n_members; ++i) text += (i > 0 ? ",\"tensor." : "\"tensor.") + std::to_string(i) + "\":" + std::to_string(i);
    return text + "}";
  };
  const auto seconds = [](const std::string& text) {
    const std::clock_t start = std::clock();  // processor time: other programs do not count
    parse_json(text, "F", true);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  std::string text = object(n);
  const Json j = parse_json(text, "F", true);
  CHECK(j.size() == n);
  CHECK(j.back() == n - 1);
  // Against itself, for a processor may be slow, or emulated: eight times the work, with caches that hold less of it; quadratic: 64.
  const std::string eighth = object(n / 8);
  const double small = std::max(1e-3, std::min({seconds(eighth), seconds(eighth), seconds(eighth)}));
  CHECK(std::min(seconds(text), seconds(text)) < 30 * small);
  text.back() = ',';
  CHECK(error_of(text + "\"tensor.777\":0}", true).find("tensor.777") != std::string::npos);
  const Json last_wins = parse_json(text + "\"tensor.777\":0}", "F");
  CHECK(last_wins.size() == n);
  CHECK(std::next(last_wins.begin(), 777).value() == 0);  // where the first one stood
}

TEST_CASE("dump_json writes any bytes as valid UTF-8 on one line") {
  CHECK(dump_json(Json("a\xff\xc3")) == "\"a\uFFFD\uFFFD\"");
  CHECK(dump_json(Json("a\n\t\x01\"")) == "\"a\\n\\t\\u0001\\\"\"");
  CHECK(dump_json(Json{{"a", 1}}, 1) == "{\n \"a\": 1\n}");
}

TEST_CASE("files: limits and what cannot be read") {
  const test::TempDir dir;
  const std::string path = dir.write("f", "{\"a\": 1}");
  CHECK(read_text_file(path) == "{\"a\": 1}");
  CHECK(read_text_file(path, 8).size() == 8);
  CHECK_THROWS_WITH_AS(read_text_file(path, 7), doctest::Contains("at most 7 bytes"), Error);
  CHECK(read_json_file(path)["a"] == 1);
  CHECK_THROWS_WITH_AS(read_json_file(dir.file("missing")), doctest::Contains("missing: cannot read"), Error);
  CHECK_THROWS_WITH_AS(read_text_file(dir.path()), doctest::Contains("cannot read"), Error);
  dir.write("bad", "{");
  CHECK_THROWS_WITH_AS(read_json_file(dir.file("bad")), doctest::Contains("bad: expected JSON"), Error);
}

TEST_CASE("files: a named pipe is read if somebody writes to it, and not waited for if nobody does") {
  const test::TempDir dir;
  REQUIRE(mkfifo(dir.file("pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(read_text_file(dir.file("pipe")), doctest::Contains("a pipe that nothing was written to"), Error);
  std::thread writer([&] {
    std::ofstream out(dir.file("pipe"));
    out << "one" << std::flush;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    out << "two";
  });
  CHECK(read_text_file(dir.file("pipe")) == "onetwo");
  writer.join();
}
