#include "cli/markdown.h"

#include <algorithm>

#include "cli/terminal.h"

namespace engine::cli {
namespace {

constexpr std::string_view italic_on = "\x1b[3m", heading_1_on = "\x1b[1;4m";

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }

size_t leading_run(std::string_view text) {
  size_t n = 0;
  while (n < text.size() && text[n] == text[0]) n++;
  return n;
}
size_t trailing_run(std::string_view text, char c) {
  size_t n = 0;
  while (n < text.size() && text[text.size() - 1 - n] == c) n++;
  return n;
}

}  // namespace

std::string MarkdownStream::push(std::string_view text) {
  const std::string safe = printable(text);
  if (!on_) return safe;
  std::string out;
  for (const char c : safe) put(c, &out);
  return out;
}

std::string MarkdownStream::flush() {
  std::string out;
  if (on_ && line_ == Line::unknown && !held_.empty()) decide_line(true, &out);
  while (line_ == Line::text && !held_.empty()) {
    if (!close_span('\n', &out)) release_mark(&out);
  }
  if (!base_.empty() || line_ == Line::code) out += style::reset;
  *this = MarkdownStream(on_);
  return out;
}

void MarkdownStream::put(char c, std::string* out) {
  if (c == '\n') {
    if (line_ == Line::unknown) decide_line(true, out);
    end_line(out);
  } else if (line_ == Line::unknown) {
    held_ += c;
    decide_line(false, out);
  } else if (line_ == Line::code) {
    *out += c;
  } else {
    put_inline(c, out);
  }
}

// Looks at a line's beginning in held_ and, once it is clear what the line is (or it has ended), shows it and sets line_.
void MarkdownStream::decide_line(bool at_end, std::string* out) {
  if (!fence_.empty()) return decide_code_line(at_end, out);
  const size_t indent = std::min(held_.find_first_not_of(' '), held_.size());
  const std::string_view blanks = std::string_view(held_).substr(0, indent);
  const std::string_view rest = std::string_view(held_).substr(indent);
  if (rest.empty()) {
    if (at_end || indent > 40) begin_text("", "", "", out);
    return;
  }
  const size_t run = leading_run(rest);
  const bool run_ended = at_end || rest.size() > run;
  const char after = rest.size() > run ? rest[run] : '\n';
  switch (rest[0]) {
    case '#':
      if (!run_ended && run <= 6) return;
      if (run <= 6 && after == ' ') return begin_text(held_.substr(0, indent + run + 1), "", run == 1 ? heading_1_on : style::bold, out);
      break;
    case '-':
    case '*':
    case '+':
      if (!run_ended && run == 1) return;
      if (run == 1 && after == ' ') return begin_text(held_.substr(0, indent + 2), std::string(blanks) + "\u2022 ", "", out);
      break;
    case '>':
      if (!run_ended && run == 1) return;
      if (run == 1 && after == ' ') return begin_text(held_.substr(0, indent + 2), std::string(blanks) + "\u2502 ", "", out);
      break;
    case '`':
    case '~':
      // A fence's line is short; it is shown when it is complete, since another backtick in it makes it text.
      if (!at_end && (run >= 3 || !run_ended) && held_.size() <= max_held_bytes) return;
      if (at_end && run >= 3 && (rest[0] == '~' || rest.find('`', run) == std::string_view::npos)) {
        fence_ = std::string(rest.substr(0, run));
        *out += std::string(style::dim) + held_ + std::string(style::reset);
        held_.clear();
        line_ = Line::text;
        return;
      }
      break;
    default:
      break;
  }
  begin_text("", "", "", out);
}

// Inside a code block: the line that closes it, or code, shown as it is.
void MarkdownStream::decide_code_line(bool at_end, std::string* out) {
  const size_t indent = std::min(held_.find_first_not_of(' '), held_.size());
  std::string_view rest = std::string_view(held_).substr(indent);
  size_t run = 0;
  while (run < rest.size() && rest[run] == fence_[0]) run++;
  const bool may_close = indent <= 3 && rest.find_first_not_of(' ', run) == std::string_view::npos;
  if (may_close && !at_end && held_.size() <= max_held_bytes) return;
  if (may_close && at_end && run >= fence_.size()) {
    *out += std::string(style::dim) + held_ + std::string(style::reset);
    fence_.clear();
    line_ = Line::text;
  } else {
    *out += std::string(style::cyan) + held_;
    line_ = Line::code;
  }
  held_.clear();
}

// The line is text: `shown` takes the place of `marks` (which held_ starts with), the rest of held_ goes on as inline text.
void MarkdownStream::begin_text(std::string_view marks, std::string_view shown, std::string_view sgr, std::string* out) {
  const std::string rest = held_.substr(marks.size());
  held_.clear();
  line_ = Line::text;
  base_ = sgr;
  last_ = ' ';
  *out += shown;
  *out += sgr;
  for (const char c : rest) put_inline(c, out);
}

void MarkdownStream::put_inline(char c, std::string* out) {
  if (!held_.empty()) {
    if (close_span(c, out)) return put_inline(c, out);
    held_ += c;
    const size_t run = leading_run(held_);
    const bool dead = held_[0] == '\\' || (held_[0] != '`' && (run > 3 || (held_.size() > run && is_blank(held_[run]))));
    if (dead || held_.size() > max_held_bytes) release_mark(out);
    return;
  }
  if (c == '`' || c == '\\' || ((c == '*' || c == '_') && !is_word(last_))) {
    held_ = c;
    return;
  }
  *out += c;
  last_ = c;
}

// If held_ is a complete span and `next` does not belong to it: shows it and empties held_.
bool MarkdownStream::close_span(char next, std::string* out) {
  const char mark = held_[0];
  if (mark == '\\') return false;
  const size_t open = leading_run(held_);
  const std::string_view inside = std::string_view(held_).substr(open);
  const size_t close = trailing_run(inside, mark);
  if (close == 0 || next == mark || inside.size() == close) return false;
  if (mark == '`') {
    if (close != open) return false;
    *out += std::string(style::cyan) + std::string(inside.substr(0, inside.size() - close)) + std::string(style::reset) + base_;
  } else {
    // "**a *b***": the last three close both.
    if (close != open && close != 3) return false;
    if (is_blank(inside[inside.size() - close - 1]) || (mark == '_' && is_word(next))) return false;
    const std::string sgr = open == 1   ? std::string(italic_on)
                            : open == 2 ? std::string(style::bold)
                                        : std::string(style::bold) + std::string(italic_on);
    MarkdownStream nested(true);
    nested.line_ = Line::text;
    std::string outer = base_ + sgr;
    *out += sgr;
    std::string body;
    nested.base_ = outer;
    for (const char c : inside.substr(0, inside.size() - open)) nested.put_inline(c, &body);
    while (!nested.held_.empty()) {
      if (!nested.close_span('\n', &body)) nested.release_mark(&body);
    }
    *out += body + std::string(style::reset) + base_;
  }
  last_ = mark;
  held_.clear();
  return true;
}

// What is held opens no span: its mark is shown as it is and the rest is looked at again.
void MarkdownStream::release_mark(std::string* out) {
  std::string text;
  text.swap(held_);
  size_t shown = leading_run(text);
  if (text[0] == '\\') {
    const bool escape = text.size() > 1 && (text[1] == '*' || text[1] == '_' || text[1] == '`');
    *out += escape ? text.substr(1, 1) : text.substr(0, 1);
    shown = escape ? 2 : 1;
  } else {
    *out += text.substr(0, shown);
  }
  last_ = text[0];
  for (size_t i = shown; i < text.size(); i++) put_inline(text[i], out);
}

void MarkdownStream::end_line(std::string* out) {
  while (line_ == Line::text && !held_.empty()) {
    if (!close_span('\n', out)) release_mark(out);
  }
  if (!base_.empty() || line_ == Line::code) *out += style::reset;
  *out += '\n';
  held_.clear();
  base_.clear();
  line_ = Line::unknown;
}

}  // namespace engine::cli
