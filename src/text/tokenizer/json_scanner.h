// A pull scanner over JSON text, for the parts of tokenizer.json that hold hundreds of thousands of strings: no tree,
// no allocation a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace engine::tok {

/// Walks one JSON value after the other. Everything passed over is checked; any fault throws Error with file and byte.
class JsonScanner {
 public:
  /// `text` must outlive the scanner. `where` names the file in errors.
  JsonScanner(std::string_view text, std::string where)
      : begin_(text.data()), p_(begin_), end_(begin_ + text.size()), where_(std::move(where)) {}

  /// The next character that is not blank (0 at the end), without taking it.
  char peek() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\n' || *p_ == '\r' || *p_ == '\t')) ++p_;
    return p_ < end_ ? *p_ : '\0';
  }

  /// Calls on_member(key) for each member; it must consume the value. The key is valid until the next string is read.
  template <class F>
  void object(F&& on_member) {
    members([this] { return string(); }, on_member);
  }
  /// The same with keys that are not checked to be UTF-8.
  template <class F>
  void object_with_unchecked_keys(F&& on_member) {
    members([this] { return unchecked_string(); }, on_member);
  }

  /// Calls on_item() for each item; it must consume it.
  template <class F>
  void array(F&& on_item) {
    expect('[', "an array");
    if (take(']')) return;
    do on_item();
    while (take(','));
    expect(']', "',' or ']'");
  }

  /// A string, unescaped and checked to be UTF-8. Points into the text, or into a buffer that the next escaped string
  /// overwrites.
  std::string_view string();
  /// The same without the UTF-8 check, for strings that are only compared with checked ones.
  std::string_view unchecked_string();
  int64_t integer();
  bool boolean();
  bool is_null() { return peek() == 'n'; }

  /// The text from here on, for readers of their own of what is simple and frequent; what they do not understand they
  /// leave.
  std::string_view rest() const { return {p_, static_cast<size_t>(end_ - p_)}; }
  void advance(size_t n) { p_ += n; }

  /// Passes over any value and returns its text.
  std::string_view skip();
  /// Nothing but blanks may follow.
  void finish();

  /// "file: byte N: expected `what`".
  [[noreturn]] void fail(std::string_view what);
  const std::string& where() const { return where_; }

 private:
  template <class Key, class F>
  void members(Key&& read_key, F&& on_member) {
    expect('{', "an object");
    if (take('}')) return;
    do {
      const std::string_view key = read_key();
      expect(':', "':'");
      on_member(key);
    } while (take(','));
    expect('}', "',' or '}'");
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++p_;
    return true;
  }
  void expect(char c, std::string_view what) {
    if (!take(c)) fail(what);
  }
  std::string_view unescape(const char* first);
  uint32_t hex4();
  void literal(std::string_view word);
  void number();

  const char* begin_;
  const char* p_;
  const char* end_;
  std::string where_;
  std::string buffer_;
};

}  // namespace engine::tok
