#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "cli/chat_commands.h"
#include "cli/files.h"
#include "cli/history.h"
#include "cli/options.h"

using namespace engine;
using namespace engine::cli;

namespace {

// A directory that goes away with the test.
struct Folder {
  Folder() {
    char name[] = "/tmp/engine-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

}  // namespace

TEST_CASE("assignments are split at blanks outside quotes and brackets") {
  const std::pair<const char*, std::vector<std::string>> cases[] = {
      {"", {}},
      {"  a=1   b=2 ", {"a=1", "b=2"}},
      {"a=\"x y\" b='it is'", {"a=\"x y\"", "b='it is'"}},
      {"a=[1, 2] b=[[1, 2], [3]]", {"a=[1, 2]", "b=[[1, 2], [3]]"}},
      {"a=[\"] [\", \"b c\"] d", {"a=[\"] [\", \"b c\"]", "d"}},
      {"a=\"say \\\"hi\\\" now\"", {"a=\"say \\\"hi\\\" now\""}},
      {"a=it's b=1", {"a=it's", "b=1"}},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    CHECK(split_assignments(text) == expected);
  }
  for (const char* text : {"a=\"x", "a=[1", "a=[\"x]", "a='b"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(split_assignments(text), Error);
  }
}

TEST_CASE("what is a command") {
  for (const char* line : {"!help", "!", "! x", "!!", "/help", "/save a/b", "/x\ty"}) {
    CAPTURE(line);
    CHECK(is_chat_command(line));
  }
  for (const char* line : {"", "help", " !help", "/", "/ x", "//", "/usr/bin", "/a1", "/?", "hello /help"}) {
    CAPTURE(line);
    CHECK_FALSE(is_chat_command(line));
  }
}

TEST_CASE("sizes") {
  const std::pair<const char*, uint64_t> cases[] = {
      {"1", 1}, {"1000000", 1000000}, {"7B", 7}, {"512M", 512ull << 20}, {"4G", 4ull << 30}, {"4g", 4ull << 30}, {"1.5GiB", 3ull << 29},
      {"64KB", 64 << 10}, {"2T", 2ull << 40}};
  for (const auto& [text, bytes] : cases) {
    CAPTURE(text);
    CHECK(parse_size(text, "--mem") == bytes);
  }
  for (const char* text : {"", "G", "0", "-1", "1X", "1GG", "1Gx", "nan", "inf", "1e30", "4 G"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_size(text, "--mem"), UsageError);
  }
}

TEST_CASE("the history keeps what was typed, in a private file") {
  const Folder folder;
  const std::string path = folder.path + "/state/engine/history";
  const std::vector<std::string> typed = {"one", "two\nlines", "back\\slash \\n", "\u00e9"};
  {
    History history(path);
    CHECK(history.entries().empty());
    for (const std::string& text : typed) history.add(text);
    history.add(typed.back());  // no repetition
    history.add("  \n");        // nothing
    CHECK(history.entries() == typed);
    CHECK(history.problem().empty());
  }
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  History first(path), second(path);
  CHECK(first.entries() == typed);
  first.add("from the first");
  second.add("from the second");
  const History both(path);
  CHECK(both.entries().size() == typed.size() + 2);
}

TEST_CASE("the history is bounded") {
  const Folder folder;
  const std::string path = folder.path + "/history";
  {
    std::ofstream file(path);
    for (size_t i = 0; i < 3 * History::max_entries; i++) file << "entry " << i << "\n";
  }
  const History history(path);
  CHECK(history.entries().size() == History::max_entries);
  CHECK(history.entries().back() == "entry " + std::to_string(3 * History::max_entries - 1));
  const History again(path);
  CHECK(again.entries() == history.entries());
  CHECK(std::filesystem::file_size(path) < 12 * History::max_entries);
}

TEST_CASE("a history that cannot be kept is no error") {
  const Folder folder;
  std::ofstream(folder.path + "/file") << "x";
  History history(folder.path + "/file/history");
  CHECK_FALSE(history.problem().empty());
  history.add("one");
  CHECK(history.entries().size() == 1);
  History none("");
  none.add("one");
  CHECK(none.problem().empty());
}

TEST_CASE("files are written whole or not at all") {
  const Folder folder;
  const std::string path = folder.path + "/a/b/file";
  write_file_atomically(path, "first");
  write_file_atomically(path, "second");
  std::string text;
  std::ifstream(path) >> text;
  CHECK(text == "second");
  CHECK_THROWS_AS(write_file_atomically(folder.path, "x"), Error);
  CHECK_THROWS_AS(write_file_atomically(path + "/below", "x"), Error);
  size_t n_files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path + "/a/b")) n_files++;
  CHECK(n_files == 1);
}
