#include "text/tokenizer/json_scanner.h"

#include <bit>
#include <cstring>

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {
constexpr size_t kMaxDepth = 256;
bool ends_plain_run(char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; }

/// The first byte at or after p that ends a plain run, eight bytes at a time.
const char* plain_run_end(const char* p, const char* end) {
  constexpr uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
  const auto zero_bytes = [](uint64_t v) { return (v - ones) & ~v & highs; };
  for (; end - p >= 8; p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    // Exact up to the first hit, which is all that counts (borrows only run upwards).
    const uint64_t hits =
        zero_bytes(word ^ (ones * '"')) | zero_bytes(word ^ (ones * '\\')) | ((word - ones * 0x20) & ~word & highs);
    if (hits != 0) return p + std::countr_zero(hits) / 8;
  }
  while (p < end && !ends_plain_run(*p)) ++p;
  return p;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
}  // namespace

void JsonScanner::fail(std::string_view what) {
  std::string got =
      p_ < end_ ? std::string("'") + (static_cast<unsigned char>(*p_) < 0x20 ? '?' : *p_) + "'" : "the end of the file";
  if (!is_valid_utf8(got)) got = "a byte that is not ASCII";
  throw Error(where_ + ": byte " + std::to_string(p_ - begin_) + ": expected " + std::string(what) + ", got " + got);
}

std::string_view JsonScanner::unchecked_string() {
  expect('"', "a string");
  const char* first = p_;
  p_ = plain_run_end(p_, end_);
  if (p_ == end_) fail("'\"'");
  if (*p_ == '"') {
    const std::string_view out(first, static_cast<size_t>(p_ - first));
    ++p_;
    return out;
  }
  return unescape(first);
}

std::string_view JsonScanner::string() {
  const std::string_view s = unchecked_string();
  if (!is_valid_utf8(s)) fail("UTF-8 in a string");
  return s;
}

uint32_t JsonScanner::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++p_) {
    const char c = p_ < end_ ? *p_ : '\0';
    const int digit = is_digit(c)            ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) fail("four hexadecimal digits");
    value = value << 4 | static_cast<uint32_t>(digit);
  }
  return value;
}

std::string_view JsonScanner::unescape(const char* first) {
  buffer_.assign(first, p_);
  for (;;) {
    const char* run = p_;
    p_ = plain_run_end(p_, end_);
    buffer_.append(run, p_);
    if (p_ == end_) fail("'\"'");
    if (*p_ == '"') break;
    if (*p_ != '\\') fail("no control character in a string");
    if (++p_ == end_) fail("an escape");
    const char c = *p_++;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        buffer_ += c;
        break;
      case 'b':
        buffer_ += '\b';
        break;
      case 'f':
        buffer_ += '\f';
        break;
      case 'n':
        buffer_ += '\n';
        break;
      case 'r':
        buffer_ += '\r';
        break;
      case 't':
        buffer_ += '\t';
        break;
      case 'u': {
        uint32_t cp = hex4();
        if (cp >= 0xDC00 && cp < 0xE000) fail("a leading surrogate first");
        if (cp >= 0xD800 && cp < 0xDC00) {
          if (end_ - p_ < 2 || p_[0] != '\\' || p_[1] != 'u') fail("a trailing surrogate");
          p_ += 2;
          const uint32_t low = hex4();
          if (low < 0xDC00 || low >= 0xE000) fail("a trailing surrogate");
          cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        }
        append_code_point(buffer_, cp);
        break;
      }
      default:
        --p_;
        fail("an escape");
    }
  }
  ++p_;
  return buffer_;
}

int64_t JsonScanner::integer() {
  peek();
  const bool negative = p_ < end_ && *p_ == '-';
  const char* first = p_;
  if (negative) ++p_;
  if (p_ == end_ || !is_digit(*p_)) fail("an integer");
  int64_t value = 0;
  const char* limit = end_ - first > 18 ? first + 18 : end_;
  while (p_ < limit && is_digit(*p_)) value = value * 10 + (*p_++ - '0');
  if (p_ < end_ && is_digit(*p_)) fail("an integer of at most 17 digits");
  if (p_ < end_ && (*p_ == '.' || *p_ == 'e' || *p_ == 'E')) fail("an integer");
  return negative ? -value : value;
}

void JsonScanner::literal(std::string_view word) {
  if (static_cast<size_t>(end_ - p_) < word.size() || std::memcmp(p_, word.data(), word.size()) != 0)
    fail("a JSON value");
  p_ += word.size();
}

bool JsonScanner::boolean() {
  const char c = peek();
  if (c != 't' && c != 'f') fail("true or false");
  literal(c == 't' ? "true" : "false");
  return c == 't';
}

void JsonScanner::number() {
  const auto digits = [&] {
    if (p_ == end_ || !is_digit(*p_)) fail("a digit");
    while (p_ < end_ && is_digit(*p_)) ++p_;
  };
  if (*p_ == '-') ++p_;
  if (p_ < end_ && *p_ == '0')
    ++p_;
  else
    digits();
  if (p_ < end_ && *p_ == '.') ++p_, digits();
  if (p_ < end_ && (*p_ == 'e' || *p_ == 'E')) {
    ++p_;
    if (p_ < end_ && (*p_ == '+' || *p_ == '-')) ++p_;
    digits();
  }
}

std::string_view JsonScanner::skip() {
  peek();
  const char* first = p_;
  char open[kMaxDepth];  // the brackets we are in
  size_t depth = 0;
  do {
    const char c = peek();
    bool value_done = true;
    if (c == '{' || c == '[') {
      if (depth == kMaxDepth) fail("at most 256 levels of nesting");
      ++p_;
      const char close = c == '{' ? '}' : ']';
      if (!take(close)) {
        open[depth++] = close;
        value_done = false;
        if (c == '{') unchecked_string(), expect(':', "':'");
      }
    } else if (c == '"') {
      unchecked_string();
    } else if (c == '-' || is_digit(c)) {
      number();
    } else {
      literal(c == 't' ? "true" : c == 'f' ? "false" : "null");
    }
    while (value_done && depth > 0) {
      if (take(',')) {
        if (open[depth - 1] == '}') unchecked_string(), expect(':', "':'");
        value_done = false;
      } else {
        expect(open[--depth], "',' or a closing bracket");
      }
    }
  } while (depth > 0);
  return {first, static_cast<size_t>(p_ - first)};
}

void JsonScanner::finish() {
  if (peek() != '\0' || p_ != end_) fail("nothing more");
}

}  // namespace engine::tok
