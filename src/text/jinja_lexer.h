// Source text of a template to tokens, with Jinja's rules for white space around tags (trim_blocks and lstrip_blocks
// on).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::jinja {

enum class Tok : uint8_t {
  eof,
  data,
  block_begin,
  block_end,
  variable_begin,
  variable_end,
  name,
  string,
  integer,
  real,
  add,
  sub,
  mul,
  div,
  floordiv,
  mod,
  pow,
  tilde,
  eq,
  ne,
  gt,
  ge,
  lt,
  le,
  assign,
  dot,
  colon,
  pipe,
  comma,
  semicolon,
  lparen,
  rparen,
  lbracket,
  rbracket,
  lbrace,
  rbrace
};

struct Token {
  Tok type = Tok::eof;
  int line = 1;
  std::string text;  // data, name, or the value of a string
  int64_t integer = 0;
  double real = 0;
};

/// What a token is called in error messages: "'end of print statement'", "'name'", ...
std::string describe(const Token& token);
std::string_view describe(Tok type);

/// Throws Error with the line. The last token is eof.
std::vector<Token> tokenize(std::string_view source);

/// Error of a template that cannot be parsed: "chat template: line 3: ...".
[[noreturn]] void syntax_error(int line, const std::string& message);

}  // namespace engine::jinja
