#include <doctest/doctest.h>

#include <random>

#include "cli/markdown.h"

using engine::cli::MarkdownStream;

namespace {

// SGR sequences as short tags, so that expectations can be read.
std::string tagged(std::string text) {
  const std::pair<std::string, std::string> tags[] = {{"\x1b[0m", "</>"},   {"\x1b[1m", "<b>"},    {"\x1b[3m", "<i>"},
                                                      {"\x1b[36m", "<c>"},  {"\x1b[2m", "<dim>"},  {"\x1b[1;4m", "<h1>"}};
  for (const auto& [sequence, tag] : tags) {
    for (size_t at; (at = text.find(sequence)) != std::string::npos;) text.replace(at, sequence.size(), tag);
  }
  return text;
}

std::string whole(const std::string& text, bool on = true) {
  MarkdownStream stream(on);
  const std::string out = stream.push(text);
  return out + stream.flush();
}

// One UTF-8 character at a time.
std::string by_character(const std::string& text) {
  MarkdownStream stream(true);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t n = 1;
    while (at + n < text.size() && (static_cast<unsigned char>(text[at + n]) & 0xc0) == 0x80) n++;
    out += stream.push(text.substr(at, n));
    at += n;
  }
  return out + stream.flush();
}

// Without styles: what is left for the eye.
std::string unstyled(std::string text) {
  for (size_t at; (at = text.find('\x1b')) != std::string::npos;) text.erase(at, text.find('m', at) - at + 1);
  return text;
}

}  // namespace

TEST_CASE("marks become styles") {
  const std::pair<const char*, const char*> cases[] = {
      {"plain", "plain"},
      {"a **bold** word", "a <b>bold</> word"},
      {"an *italic* one", "an <i>italic</> one"},
      {"an _italic_ one", "an <i>italic</> one"},
      {"__bold__", "<b>bold</>"},
      {"***both***", "<b><i>both</>"},
      {"**bold *and italic***", "<b>bold <i>and italic</><b></>"},
      {"*a **b** c*", "<i>a <b>b</><i> c</>"},
      {"**a `b` c**", "<b>a <c>b</><b> c</>"},
      {"use `x = 1`, please", "use <c>x = 1</>, please"},
      {"``a ` b``", "<c>a ` b</>"},
      {"`**no**`", "<c>**no**</>"},
      {"# Title\ntext", "<h1>Title</>\ntext"},
      {"## Title *x*\n", "<b>Title <i>x</><b></>\n"},
      {"- one\n* two\n  + three\n", "\u2022 one\n\u2022 two\n  \u2022 three\n"},
      {"- **a**: b", "\u2022 <b>a</>: b"},
      {"1. first", "1. first"},
      {"> said", "\u2502 said"},
      {"```py\nx = *1*\n```\nafter *it*", "<dim>```py</>\n<c>x = *1*</>\n<dim>```</>\nafter <i>it</>"},
      {"~~~\n```\n~~~\n", "<dim>~~~</>\n<c>```</>\n<dim>~~~</>\n"},
      {"```\nopen", "<dim>```</>\n<c>open</>"},
      {"\u8fd9\u662f**\u7c97\u4f53**\u5b57", "\u8fd9\u662f<b>\u7c97\u4f53</>\u5b57"},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    CHECK(tagged(whole(text)) == expected);
  }
}

TEST_CASE("what is no Markdown is shown as it is") {
  const char* cases[] = {"2 * 3 * 4", "2*3*4", "a * b", "*args and **kwargs", "snake_case_name", "_", "*", "**", "***", "****", "`", "a ` b",
                         "**open", "*open\nnext*", "`open\nnext`", "#hashtag", "####### seven", "-dash", "--- ", "a\\b \\(x\\)", "\\",
                         "``` inline ``` text", "5 > 3", ">", "# ", "", "\n\n", "x**", "* ", "_a_b"};
  for (const char* text : cases) {
    CAPTURE(text);
    std::string expected = text;
    if (expected == "# ") expected = "";           // an empty heading
    if (expected == "* ") expected = "\u2022 ";    // an empty item
    if (expected.starts_with("``` ")) expected = " inline  text";  // code in a line
    CHECK(unstyled(whole(text)) == expected);
  }
  CHECK(whole("\\*no italics\\*") == "*no italics*");
}

TEST_CASE("the result does not depend on how the text was cut") {
  std::mt19937 random(7);
  const std::string pieces[] = {"*", "**", "_", "`", "```", "\n", " ", "a", "word ", "- ", "# ", "> ", "\\", "~~~", "\u00e9", "\u4e2d"};
  for (int i = 0; i < 3000; i++) {
    std::string text;
    for (int n = static_cast<int>(random() % 30); n >= 0; n--) text += pieces[random() % std::size(pieces)];
    CAPTURE(text);
    REQUIRE(tagged(by_character(text)) == tagged(whole(text)));
  }
}

TEST_CASE("text is not held back for long") {
  MarkdownStream stream(true);
  std::string shown = stream.push("An answer with *a mark that never closes ");
  for (int i = 0; i < 100; i++) shown += stream.push("and goes on ");
  CHECK(shown.size() > 700);
  CHECK(unstyled(shown + stream.flush()).size() == 41 + 1200);
  std::string many(20000, '*');
  for (size_t i = 1; i < many.size(); i += 2) many[i] = 'a';
  CHECK(whole(many).size() >= many.size());  // and does not take quadratic time
}

TEST_CASE("control characters cannot drive the terminal") {
  for (const bool on : {true, false}) {
    const std::string shown = whole("a\x1b]0;title\x07" "b\x1b[2J c\r\nd\u009b" "31m\x7f" "e\tf", on);
    for (const char c : shown) {
      const bool allowed = static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t';
      CHECK(allowed);
    }
    CHECK(shown == "a^[]0;title^Gb^[[2J c\nd\xef\xbf\xbd" "31m^?e\tf");
  }
  CHECK(whole("**a**", false) == "**a**");
}
