// Light Markdown on a terminal, as it streams in: bold, italics, code, headings, lists, quotes. No reflow.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace engine::cli {

/// Feed text piece by piece (each of whole UTF-8 characters); each call returns what may be shown. The output joined does not depend on
/// how the text was cut. Text is held back only from an opening mark (`*`, `_`, backtick) to its closing one, the end of the line or
/// `max_held_bytes`; a mark without a partner is shown as it is, so nothing the model said is lost. Control characters become
/// visible (see printable()).
class MarkdownStream {
 public:
  /// `on` false: text passes through, marks and all, with control characters made visible.
  explicit MarkdownStream(bool on) : on_(on) {}

  std::string push(std::string_view text);
  /// The end of the answer: what is held back, styles off. Ready for another answer.
  std::string flush();

  static constexpr size_t max_held_bytes = 400;

 private:
  enum class Line : uint8_t { unknown, text, code };

  void put(char c, std::string* out);
  void decide_line(bool at_end, std::string* out);
  void decide_code_line(bool at_end, std::string* out);
  void begin_text(std::string_view marks, std::string_view shown, std::string_view sgr, std::string* out);
  void put_inline(char c, std::string* out);
  bool close_span(char next, std::string* out);
  void release_mark(std::string* out);
  void end_line(std::string* out);

  bool on_;
  std::string fence_;          // the ``` or ~~~ run that opened the code block we are in; empty outside
  Line line_ = Line::unknown;
  std::string held_;           // the line's start while its kind is unknown; in text, what follows an opening mark, with it
  std::string base_;           // SGR of the line as a whole (headings)
  char last_ = ' ';            // the source character before: a mark inside a word opens nothing
};

}  // namespace engine::cli
