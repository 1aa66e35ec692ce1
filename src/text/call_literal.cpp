// Calls as expressions: NAME(key=VALUE, ...) with Python's literals (LFM2), and NAME{key:VALUE,...} with strings between a mark of the format (Gemma).
#include <optional>

#include "base/error.h"
#include "text/call_readers.h"

namespace engine {
namespace {

constexpr size_t max_name = 64;
constexpr int max_depth = 64;
constexpr size_t max_members = 1000;  // of one object: each is looked for among the others

/// Reads a whole expression; null: it is none.
class Literals {
 public:
  /// `quote`: around strings; empty: Python's quotes alone.
  Literals(std::string_view text, std::string_view quote) : text_(text), quote_(quote) {}

  /// key SEPARATOR value, ... CLOSE, from behind the opening bracket to the end.
  std::optional<Json> members(char separator, char close) {
    std::optional<Json> out = members_inside(separator, close, 0);
    if (at_ != text_.size()) out.reset();
    return out;
  }

 private:
  bool skip(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  void skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }
  /// Behind an item: whether another follows (a comma may stand before the end); null: neither.
  std::optional<bool> more(char close) {
    skip_blanks();
    const bool comma = skip(",");
    skip_blanks();
    if (skip(std::string_view(&close, 1))) return false;
    if (!comma) return std::nullopt;
    return true;
  }

  std::optional<Json> members_inside(char separator, char close, int depth) {
    Json out = Json::object();
    skip_blanks();
    if (skip(std::string_view(&close, 1))) return out;
    for (;;) {
      std::optional<std::string> key = string();
      if (!key) key = word();
      skip_blanks();
      if (key->empty() || !skip(std::string_view(&separator, 1))) return std::nullopt;
      std::optional<Json> item = value(depth);
      if (!item || out.size() >= max_members || out.contains(*key)) return std::nullopt;
      out[*key] = std::move(*item);
      const std::optional<bool> another = more(close);
      if (!another) return std::nullopt;
      if (!*another) return out;
    }
  }

  std::optional<Json> list(char close, int depth) {
    Json out = Json::array();
    skip_blanks();
    if (skip(std::string_view(&close, 1))) return out;
    for (;;) {
      std::optional<Json> item = value(depth);
      if (!item) return std::nullopt;
      out.push_back(std::move(*item));
      const std::optional<bool> another = more(close);
      if (!another) return std::nullopt;
      if (!*another) return out;
    }
  }

  std::optional<Json> value(int depth) {
    if (depth > max_depth) return std::nullopt;
    skip_blanks();
    if (std::optional<std::string> text = string()) return Json(std::move(*text));
    if (skip("{")) return members_inside(':', '}', depth + 1);
    if (skip("[")) return list(']', depth + 1);
    if (quote_.empty() && skip("(")) return list(')', depth + 1);
    const std::string text = word();
    if (text == "True") return Json(true);
    if (text == "False") return Json(false);
    if (text == "None") return Json();
    try {
      return parse_json(text, "value");
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  std::string word() {
    const size_t begin = at_;
    while (at_ < text_.size() && (is_name_char(text_[at_]) || text_[at_] == '+')) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::optional<std::string> string() {
    skip_blanks();
    if (!quote_.empty() && skip(quote_)) {
      const size_t end = text_.find(quote_, at_);
      if (end == std::string_view::npos) return std::nullopt;
      std::string out(text_.substr(at_, end - at_));
      at_ = end + quote_.size();
      return out;
    }
    if (at_ >= text_.size() || (text_[at_] != '"' && text_[at_] != '\'')) return std::nullopt;
    // As JSON has it, but for the quotes and what may stand as it is.
    const char quote = text_[at_];
    std::string json = "\"";
    for (size_t i = at_ + 1; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == quote) {
        at_ = i + 1;
        return parsed(json + '"');
      }
      if (c == '\\' && i + 1 < text_.size()) {
        const char next = text_[++i];
        if (next == '\'') json += '\'';
        else json += {c, next};
      } else if (c == '"') {
        json += "\\\"";
      } else if (c == '\n' || c == '\t') {
        json += c == '\n' ? "\\n" : "\\t";
      } else {
        json += c;
      }
    }
    return std::nullopt;
  }
  static std::optional<std::string> parsed(const std::string& json) {
    try {
      return parse_json(json, "string").get<std::string>();
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  std::string_view text_, quote_;
  size_t at_ = 0;
};

class LiteralReader final : public CallReader {
 public:
  LiteralReader(AnswerParser& out, const AnswerSyntax& syntax)
      : out_(out), syntax_(syntax), format_(*syntax.format), python_(format_.body == ToolCallFormat::Body::python), state_(format_.name_open.empty() ? State::name : State::name_open) {}

  Step push(char c) override {
    switch (state_) {
      case State::name_open:
        text_ += c;
        if (!format_.name_open.starts_with(text_)) return Step::wrong;
        if (text_ == format_.name_open) state_ = State::name;
        return Step::more;
      case State::name:
        if (is_name_char(c)) {
          name_ += c;
          return name_.size() <= max_name ? Step::more : Step::wrong;
        }
        if (c != (python_ ? '(' : '{') || !syntax_.functions.contains(name_)) return Step::wrong;
        state_ = State::body;
        text_.clear();
        return Step::more;
      case State::body:
        text_ += c;
        if (!ends(c)) return Step::more;
        return give() ? Step::done : Step::wrong;
    }
    return Step::wrong;
  }

 private:
  enum class State : uint8_t { name_open, name, body };

  /// Whether `c`, the last byte, closes the bracket behind the name.
  bool ends(char c) {
    if (in_quote_) {
      if (text_.ends_with(format_.quote)) in_quote_ = false;
      return false;
    }
    if (string_ != 0) {
      if (escaped_) escaped_ = false;
      else if (c == '\\') escaped_ = true;
      else if (c == string_) string_ = 0;
      return false;
    }
    if (!format_.quote.empty() && text_.ends_with(format_.quote)) {
      in_quote_ = true;
      return false;
    }
    if (c == '"' || c == '\'') {
      if (beginning_of(format_.quote, text_) == 0) string_ = c;  // else it may belong to the format's mark
      return false;
    }
    if (c == '(' || c == '[' || c == '{') ++depth_;
    if (c == ')' || c == ']' || c == '}') --depth_;
    return depth_ == 0;
  }

  bool give() {
    const std::optional<Json> arguments = Literals(text_, format_.quote).members(python_ ? '=' : ':', python_ ? ')' : '}');
    if (!arguments) return false;
    out_.begin_call(name_);
    out_.add_arguments(dump_json(*arguments));
    return true;
  }

  AnswerParser& out_;
  const AnswerSyntax& syntax_;
  const ToolCallFormat& format_;
  const bool python_;
  State state_;
  std::string text_, name_;
  int depth_ = 1;
  char string_ = 0;         // the quote that has been opened
  bool escaped_ = false;
  bool in_quote_ = false;   // between the format's own marks
};

}  // namespace

std::unique_ptr<CallReader> read_literal_call(AnswerParser& out, const AnswerSyntax& syntax) { return std::make_unique<LiteralReader>(out, syntax); }

}  // namespace engine
