#include "runtime/answer_text.h"

#include <doctest/doctest.h>

#include "tiny_engine.h"

using namespace engine;

TEST_CASE("stop strings are found across pieces, and only where they end in the last one") {
  const auto pushes = [](std::vector<std::string> stops, std::string_view before, const std::vector<std::string>& pieces) {
    StopMatcher matcher(std::move(stops), before);
    int at = 0;
    for (const std::string& piece : pieces) {
      if (matcher.push(piece)) return at;
      ++at;
    }
    return -1;
  };
  // Transformers' own examples (StopStringCriteria).
  CHECK(pushes({"stop"}, "", {"st", "op"}) == 1);
  CHECK(pushes({"stop"}, "", {"stop"}) == 0);
  CHECK(pushes({"stop"}, "", {"st", "opera"}) == 1);
  CHECK(pushes({"stop"}, "", {"sto", "pper"}) == 1);
  CHECK(pushes({"stop"}, "", {"las", "topper"}) == 1);
  CHECK(pushes({"stop"}, "", {"s", "to", "pped"}) == 2);
  CHECK(pushes({"stop"}, "", {"s", "t", "", "o", "p"}) == 4);
  CHECK(pushes({"stop"}, "", {"sto", "ne"}) == -1);
  // The beginning may stand in the prompt; all of it may not.
  CHECK(pushes({"stop"}, "a st", {"op"}) == 0);
  CHECK(pushes({"stop"}, "a stop", {"x"}) == -1);
  CHECK(pushes({"\n\n"}, "user\n", {"\n", "x"}) == 0);
  CHECK(pushes({"\n\n"}, "user\n\n", {"x", "\n", "\n"}) == 2);
  // Several, of different lengths.
  CHECK(pushes({"abcdef", "cd"}, "", {"ab", "c", "d"}) == 2);
  CHECK(pushes({"b", "abc"}, "ab", {"c"}) == 0);
  CHECK(pushes({"b"}, "b", {"c", "b"}) == 1);
  CHECK(pushes({"aab"}, "", {"a", "a", "a", "b"}) == 3);
}

TEST_CASE("what could be the beginning of a stop string") {
  const StopMatcher matcher({"abc", "bX"}, "");
  CHECK(matcher.held_back("") == 0);
  CHECK(matcher.held_back("xa") == 1);
  CHECK(matcher.held_back("xab") == 2);
  CHECK(matcher.held_back("xb") == 1);
  CHECK(matcher.held_back("xabd") == 0);
  CHECK(matcher.held_back("ab") == 2);
}

namespace {

struct Shown {
  std::string text;
  std::vector<std::string> pieces;
  bool stopped;
};

Shown show(const Tokenizer& tokenizer, std::string_view answer, std::vector<std::string> stops, bool keep, bool skip_special = true) {
  AnswerText text(tokenizer, tokenizer.encode("<s>hi", false), std::move(stops), skip_special, keep);
  Shown shown{"", {}, false};
  for (const int32_t id : tokenizer.encode(answer, false)) {
    shown.stopped = text.push(id);
    shown.pieces.push_back(text.take());
    shown.text += shown.pieces.back();
    if (shown.stopped) break;
  }
  text.finish();
  shown.text += text.take();
  return shown;
}

}  // namespace

TEST_CASE("a stop string stays in the text or is cut off") {
  test::TempDir dir;
  test::write_tiny_model(dir, "");
  const Tokenizer tokenizer = Tokenizer::from_directory(dir.path());
  CHECK(show(tokenizer, "one END two", {"END"}, true).text == "one END");
  CHECK(show(tokenizer, "one END two", {"END"}, false).text == "one ");
  CHECK(show(tokenizer, "one EN two", {"END"}, false).text == "one EN two");
  CHECK(show(tokenizer, "one EN", {"END"}, false).text == "one EN");
  CHECK_FALSE(show(tokenizer, "one EN", {"END"}, false).stopped);
  // Nothing of it is shown early when it is to be cut off, everything at once otherwise.
  CHECK(show(tokenizer, "aENx", {"END"}, false).pieces == std::vector<std::string>{"a", "", "", "ENx"});
  CHECK(show(tokenizer, "aENx", {"END"}, true).pieces == std::vector<std::string>{"a", "E", "N", "x"});
}

TEST_CASE("a special token can be a stop string, shown or not") {
  test::TempDir dir;
  test::write_tiny_model(dir, "");
  const Tokenizer tokenizer = Tokenizer::from_directory(dir.path());
  for (const bool keep : {true, false}) {
    const Shown shown = show(tokenizer, "ab<|end|>cd", {"<|end|>"}, keep);
    CHECK(shown.stopped);
    CHECK(shown.text == "ab");
  }
  CHECK(show(tokenizer, "ab<|end|>cd", {"<|end|>"}, true, false).text == "ab<|end|>");
  CHECK(show(tokenizer, "ab<|end|>cd", {"<|end|>"}, false, false).text == "ab");
}
