#include "text/jinja_lexer.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

void syntax_error(int line, const std::string& message) {
  throw Error("chat template: line " + std::to_string(line) + ": " + message);
}

std::string_view describe(Tok type) {
  switch (type) {
    case Tok::eof:
      return "end of template";
    case Tok::data:
      return "template data / text";
    case Tok::block_begin:
      return "begin of statement block";
    case Tok::block_end:
      return "end of statement block";
    case Tok::variable_begin:
      return "begin of print statement";
    case Tok::variable_end:
      return "end of print statement";
    case Tok::name:
      return "name";
    case Tok::string:
      return "string";
    case Tok::integer:
      return "integer";
    case Tok::real:
      return "float";
    case Tok::add:
      return "+";
    case Tok::sub:
      return "-";
    case Tok::mul:
      return "*";
    case Tok::div:
      return "/";
    case Tok::floordiv:
      return "//";
    case Tok::mod:
      return "%";
    case Tok::pow:
      return "**";
    case Tok::tilde:
      return "~";
    case Tok::eq:
      return "==";
    case Tok::ne:
      return "!=";
    case Tok::gt:
      return ">";
    case Tok::ge:
      return ">=";
    case Tok::lt:
      return "<";
    case Tok::le:
      return "<=";
    case Tok::assign:
      return "=";
    case Tok::dot:
      return ".";
    case Tok::colon:
      return ":";
    case Tok::pipe:
      return "|";
    case Tok::comma:
      return ",";
    case Tok::semicolon:
      return ";";
    case Tok::lparen:
      return "(";
    case Tok::rparen:
      return ")";
    case Tok::lbracket:
      return "[";
    case Tok::rbracket:
      return "]";
    case Tok::lbrace:
      return "{";
    case Tok::rbrace:
      return "}";
  }
  return "?";
}

std::string describe(const Token& token) {
  return token.type == Tok::name ? token.text : std::string(describe(token.type));
}

namespace {

/// \r\n and \r become \n, and one newline at the very end is dropped (keep_trailing_newline is off).
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool ascii_digit(char c) { return c >= '0' && c <= '9'; }
int digit_value(char c) {
  if (ascii_digit(c)) return c - '0';
  const char l = static_cast<char>(c | 32);
  return l >= 'a' && l <= 'z' ? l - 'a' + 10 : 99;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (pos_ < source_.size()) root();
    emit(Tok::eof);
    return std::move(tokens_);
  }

 private:
  bool at(std::string_view s) const { return std::string_view(source_).substr(pos_, s.size()) == s; }
  char peek(size_t ahead = 0) const { return pos_ + ahead < source_.size() ? source_[pos_ + ahead] : '\0'; }

  Token& emit(Tok type) {
    Token token;
    token.type = type;
    token.line = line_;
    tokens_.push_back(std::move(token));
    return tokens_.back();
  }

  /// Moves to `end`, counting lines; the next text starts a line if what was passed ends in a newline.
  void advance(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    if (end > pos_) line_starting_ = source_[end - 1] == '\n';
    pos_ = end;
  }

  size_t skip_space(size_t pos) const {
    while (pos < source_.size()) {
      size_t next = pos;
      if (!is_space(utf8_next(source_, &next))) break;
      pos = next;
    }
    return pos;
  }

  /// Emits the text before a tag, stripped as the sign after the tag's opening and lstrip_blocks demand.
  void emit_data(size_t begin, size_t end, char sign, bool is_variable) {
    size_t stop = end;
    if (sign == '-') {
      while (stop > begin) {
        size_t previous = utf8_previous(source_, stop);
        size_t p = previous;
        if (!is_space(utf8_next(source_, &p))) break;
        stop = previous;
      }
    } else if (sign != '+' && !is_variable) {
      size_t line_begin = stop;
      while (line_begin > begin && source_[line_begin - 1] != '\n') --line_begin;
      if ((line_begin > begin || line_starting_) && skip_space(line_begin) >= end) stop = line_begin;
    }
    if (stop > begin) emit(Tok::data).text = source_.substr(begin, stop - begin);
  }

  void root() {
    size_t open = pos_;
    for (;; ++open) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        emit(Tok::data).text = source_.substr(pos_);
        advance(source_.size());
        return;
      }
      const char c = source_[open + 1];
      if (c == '%' || c == '{' || c == '#') break;
    }
    const char kind = source_[open + 1];
    size_t after = open + 2;
    const char sign =
        after < source_.size() && (source_[after] == '-' || source_[after] == '+') ? source_[after] : '\0';
    if (sign != '\0') ++after;
    emit_data(pos_, open, sign, kind == '{');
    if (kind == '#') {
      advance(after);
      comment();
    } else if (kind == '{') {
      advance(open);
      emit(Tok::variable_begin);
      advance(after);
      tag(true);
    } else if (const size_t raw_end = match_raw(after, "raw", false); raw_end != std::string::npos) {
      advance(raw_end);
      raw();
    } else {
      advance(open);
      emit(Tok::block_begin);
      advance(after);
      tag(false);
    }
  }

  void comment() {
    const size_t hash = source_.find("#}", pos_);
    if (hash == std::string::npos) syntax_error(line_, "Missing end of comment tag");
    const bool strip = hash > pos_ && source_[hash - 1] == '-';
    const bool keep = hash > pos_ && source_[hash - 1] == '+';
    advance(close(hash + 2, strip, keep, true));
  }

  /// Position after a closing tag: white space is taken with `-`, one newline without a sign (trim_blocks).
  size_t close(size_t end, bool strip, bool keep, bool trim) const {
    if (strip) return skip_space(end);
    if (trim && !keep && end < source_.size() && source_[end] == '\n') return end + 1;
    return end;
  }

  /// Matches ` raw %}` or ` endraw %}` after the opening and its sign; npos if it is something else.
  size_t match_raw(size_t pos, std::string_view word, bool trim) const {
    pos = skip_space(pos);
    if (std::string_view(source_).substr(pos, word.size()) != word) return std::string::npos;
    pos = skip_space(pos + word.size());
    const bool strip = pos < source_.size() && source_[pos] == '-';
    const bool keep = trim && pos < source_.size() && source_[pos] == '+';
    if (strip || keep) ++pos;
    if (std::string_view(source_).substr(pos, 2) != "%}") return std::string::npos;
    return close(pos + 2, strip, keep, trim);
  }

  void raw() {
    for (size_t open = source_.find("{%", pos_); open != std::string::npos; open = source_.find("{%", open + 1)) {
      size_t after = open + 2;
      const char sign =
          after < source_.size() && (source_[after] == '-' || source_[after] == '+') ? source_[after] : '\0';
      const size_t end = match_raw(after + (sign != '\0' ? 1 : 0), "endraw", true);
      if (end == std::string::npos) continue;
      emit_data(pos_, open, sign, false);
      advance(end);
      return;
    }
    syntax_error(line_, "Missing end of raw directive");
  }

  /// The inside of {{ }} or {% %}.
  void tag(bool is_variable) {
    std::string open_brackets;
    while (pos_ < source_.size()) {
      if (open_brackets.empty() && try_close(is_variable)) return;
      const size_t after_space = skip_space(pos_);
      if (after_space > pos_) {
        advance(after_space);
        continue;
      }
      const char c = peek();
      if (ascii_digit(c)) {
        number();
      } else if (c == '\'' || c == '"') {
        string(c);
      } else if (name()) {
      } else {
        op(&open_brackets);
      }
    }
  }

  bool try_close(bool is_variable) {
    const std::string_view mark = is_variable ? "}}" : "%}";
    const bool strip = peek() == '-' && std::string_view(source_).substr(pos_ + 1, 2) == mark;
    const bool keep = !is_variable && peek() == '+' && std::string_view(source_).substr(pos_ + 1, 2) == mark;
    if (!strip && !keep && !at(mark)) return false;
    emit(is_variable ? Tok::variable_end : Tok::block_end);
    advance(close(pos_ + (strip || keep ? 3 : 2), strip, keep, !is_variable));
    return true;
  }

  /// (\d+_)*\d+ from `pos`; returns its end, or `pos` if there is none.
  size_t digits(size_t pos) const {
    size_t end = pos;
    while (end < source_.size() &&
           (ascii_digit(source_[end]) || (source_[end] == '_' && end > pos && ascii_digit(source_[end - 1]) &&
                                          end + 1 < source_.size() && ascii_digit(source_[end + 1]))))
      ++end;
    return end;
  }

  size_t float_end() const {
    if (pos_ > 0 && source_[pos_ - 1] == '.') return pos_;
    const size_t whole = digits(pos_);
    size_t end = whole;
    if (end < source_.size() && source_[end] == '.' && digits(end + 1) > end + 1) end = digits(end + 1);
    if (end < source_.size() && (source_[end] | 32) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (digits(exponent) > exponent) return digits(exponent);
    }
    return end > whole ? end : pos_;
  }

  void number() {
    if (const size_t end = float_end(); end > pos_) {
      std::string text = source_.substr(pos_, end - pos_);
      std::erase(text, '_');
      double value = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (result.ec == std::errc::result_out_of_range) value = std::strtod(text.c_str(), nullptr);
      emit(Tok::real).real = value;
      advance(end);
      return;
    }
    int base = 10;
    size_t begin = pos_;
    size_t end = pos_ + 1;
    if (peek() == '0') {
      const char mark = static_cast<char>(peek(1) | 32);
      const int prefix = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
      const size_t first = peek(2) == '_' ? 3 : 2;
      if (prefix != 0 && digit_value(peek(first)) < prefix) {
        base = prefix;
        begin = pos_ + first;
        end = begin;
      }
    }
    const auto belongs = [&](char c) { return base == 10 && source_[pos_] == '0' ? c == '0' : digit_value(c) < base; };
    while (end < source_.size() &&
           (belongs(source_[end]) || (source_[end] == '_' && end + 1 < source_.size() && belongs(source_[end + 1]))))
      ++end;
    std::string text = source_.substr(begin, end - begin);
    std::erase(text, '_');
    int64_t value = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), value, base).ec != std::errc())
      syntax_error(line_, "integer is too large: " + text);
    emit(Tok::integer).integer = value;
    advance(end);
  }

  bool name() {
    size_t end = pos_;
    while (end < source_.size()) {
      size_t next = end;
      const char32_t c = utf8_next(source_, &next);
      if (!(end == pos_ ? is_identifier_start(c) : is_identifier_part(c))) break;
      end = next;
    }
    if (end == pos_) return false;
    emit(Tok::name).text = source_.substr(pos_, end - pos_);
    advance(end);
    return true;
  }

  void string(char quote) {
    size_t end = pos_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) syntax_error(line_, std::string("unexpected char '") + quote + "'");
    std::string value = unescape(std::string_view(source_).substr(pos_ + 1, end - pos_ - 1));
    emit(Tok::string).text = std::move(value);
    advance(end + 1);
  }

  /// Python's unicode-escape decoding.
  std::string unescape(std::string_view s) const {
    std::string out;
    for (size_t i = 0; i < s.size(); ++i) {
      if (s[i] != '\\') {
        out.push_back(s[i]);
        continue;
      }
      const char c = s[++i];
      switch (c) {
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out.push_back(c);
          break;
        case 'a':
          out.push_back('\a');
          break;
        case 'b':
          out.push_back('\b');
          break;
        case 'f':
          out.push_back('\f');
          break;
        case 'n':
          out.push_back('\n');
          break;
        case 'r':
          out.push_back('\r');
          break;
        case 't':
          out.push_back('\t');
          break;
        case 'v':
          out.push_back('\v');
          break;
        case 'x':
          i = hex_escape(s, i, 2, &out);
          break;
        case 'u':
          i = hex_escape(s, i, 4, &out);
          break;
        case 'U':
          i = hex_escape(s, i, 8, &out);
          break;
        case 'N':
          syntax_error(line_, "\\N{...} in strings is not supported");
        default:
          if (c >= '0' && c <= '7') {
            char32_t value = 0;
            size_t n = 0;
            while (n < 3 && i + n < s.size() && s[i + n] >= '0' && s[i + n] <= '7')
              value = value * 8 + static_cast<char32_t>(s[i + n++] - '0');
            utf8_append(&out, value);
            i += n - 1;
          } else {
            out.push_back('\\');
            out.push_back(c);
          }
      }
    }
    return out;
  }

  size_t hex_escape(std::string_view s, size_t i, size_t n, std::string* out) const {
    char32_t value = 0;
    for (size_t k = 1; k <= n; ++k) {
      if (i + k >= s.size() || digit_value(s[i + k]) >= 16)
        syntax_error(line_, "truncated \\" + std::string(1, s[i]) + " escape in a string");
      value = value * 16 + static_cast<char32_t>(digit_value(s[i + k]));
    }
    if (value > 0x10FFFF) syntax_error(line_, "illegal Unicode character in a string");
    utf8_append(out, value >= 0xD800 && value < 0xE000 ? 0xFFFD : value);  // a lone surrogate has no UTF-8
    return i + n;
  }

  void op(std::string* open_brackets) {
    struct Operator {
      std::string_view text;
      Tok type;
    };
    static constexpr Operator operators[] = {
        {"//", Tok::floordiv}, {"**", Tok::pow},   {"==", Tok::eq},      {"!=", Tok::ne},      {">=", Tok::ge},
        {"<=", Tok::le},       {"+", Tok::add},    {"-", Tok::sub},      {"/", Tok::div},      {"*", Tok::mul},
        {"%", Tok::mod},       {"~", Tok::tilde},  {"[", Tok::lbracket}, {"]", Tok::rbracket}, {"(", Tok::lparen},
        {")", Tok::rparen},    {"{", Tok::lbrace}, {"}", Tok::rbrace},   {">", Tok::gt},       {"<", Tok::lt},
        {"=", Tok::assign},    {".", Tok::dot},    {":", Tok::colon},    {"|", Tok::pipe},     {",", Tok::comma},
        {";", Tok::semicolon}};
    for (const Operator& o : operators) {
      if (!at(o.text)) continue;
      balance(o.type, open_brackets);
      emit(o.type);
      advance(pos_ + o.text.size());
      return;
    }
    syntax_error(line_, std::string("unexpected char '") + std::string(source_, pos_, 1) + "'");
  }

  void balance(Tok type, std::string* open) const {
    const auto closes = [&](char got) {
      if (open->empty()) syntax_error(line_, std::string("unexpected '") + got + "'");
      if (open->back() != got)
        syntax_error(line_, std::string("unexpected '") + got + "', expected '" + open->back() + "'");
      open->pop_back();
    };
    switch (type) {
      case Tok::lbrace:
        open->push_back('}');
        break;
      case Tok::lparen:
        open->push_back(')');
        break;
      case Tok::lbracket:
        open->push_back(']');
        break;
      case Tok::rbrace:
        closes('}');
        break;
      case Tok::rparen:
        closes(')');
        break;
      case Tok::rbracket:
        closes(']');
        break;
      default:
        break;
    }
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace engine::jinja
