#include "text/jinja_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <iterator>

namespace engine::jinja {

namespace {

struct SpecialCase {
  char32_t c;
  char32_t upper[3];
  char32_t title[3];
};
struct CodeRange {
  char32_t first, last;
};
#include "text/jinja_unicode_tables.inl"

bool in_ranges(const CodeRange* table, size_t n, char32_t c) {
  const CodeRange* end = table + n;
  const CodeRange* it =
      std::lower_bound(table, end, c, [](const CodeRange& r, char32_t value) { return r.last < value; });
  return it != end && it->first <= c;
}

const SpecialCase* find_special(char32_t c) {
  const SpecialCase* end = std::end(special_cases);
  const SpecialCase* it = std::lower_bound(std::begin(special_cases), end, c,
                                           [](const SpecialCase& s, char32_t value) { return s.c < value; });
  return it != end && it->c == c ? it : nullptr;
}

int copy_mapping(const char32_t from[3], char32_t out[3]) {
  int n = 0;
  while (n < 3 && from[n] != 0) {
    out[n] = from[n];
    ++n;
  }
  return n;
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool is_ascii_letter(char32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

}  // namespace

size_t utf8_length(std::string_view text) {
  size_t continuation = 0;
  for (const char c : text) continuation += (static_cast<unsigned char>(c) & 0xC0) == 0x80;
  return text.size() - continuation;
}

char32_t utf8_next(std::string_view text, size_t* pos) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data()) + *pos;
  const unsigned char b = s[0];
  if (b < 0x80) {
    *pos += 1;
    return b;
  }
  const size_t left = text.size() - *pos;
  if (b < 0xE0 && left >= 2) {
    *pos += 2;
    return static_cast<char32_t>((b & 0x1F) << 6 | (s[1] & 0x3F));
  }
  if (b < 0xF0 && left >= 3) {
    *pos += 3;
    return static_cast<char32_t>((b & 0x0F) << 12 | (s[1] & 0x3F) << 6 | (s[2] & 0x3F));
  }
  if (left >= 4) {
    *pos += 4;
    return static_cast<char32_t>((b & 0x07) << 18 | (s[1] & 0x3F) << 12 | (s[2] & 0x3F) << 6 | (s[3] & 0x3F));
  }
  *pos = text.size();
  return 0xFFFD;
}

void utf8_append(std::string* out, char32_t c) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

size_t utf8_offset(std::string_view text, size_t n) {
  size_t pos = 0;
  while (pos < text.size()) {
    if ((static_cast<unsigned char>(text[pos]) & 0xC0) != 0x80) {
      if (n == 0) return pos;
      --n;
    }
    ++pos;
  }
  return text.size();
}

size_t utf8_previous(std::string_view text, size_t pos) {
  do --pos;
  while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

/// Length of the valid sequence at s, or 0.
static size_t valid_sequence(const unsigned char* s, size_t left) {
  if (s[0] < 0x80) return 1;
  if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
  const size_t n = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
  if (n > left) return 0;
  for (size_t i = 1; i < n; ++i) {
    if ((s[i] & 0xC0) != 0x80) return 0;
  }
  if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
      (s[0] == 0xF4 && s[1] > 0x8F))
    return 0;
  return n;
}

bool utf8_valid(std::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    uint64_t word;
    if (i + 8 <= text.size() && (std::memcpy(&word, s + i, 8), (word & 0x8080808080808080ull) == 0)) {
      i += 8;
      continue;
    }
    const size_t n = valid_sequence(s + i, text.size() - i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

std::string utf8_sanitize(std::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t n = valid_sequence(s + i, text.size() - i);
    if (n == 0) {
      out += "\xEF\xBF\xBD";
      ++i;
    } else {
      out.append(text.substr(i, n));
      i += n;
    }
  }
  return out;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_printable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7f;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_alpha(char32_t c) {
  if (c < 0x80) return is_ascii_letter(c);
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(char32_t c) { return is_decimal(c) || (c >= 0x80 && in_ranges(digit_only, std::size(digit_only), c)); }

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) ||
         in_ranges(numeric_letters, std::size(numeric_letters), c);
}

bool is_lower(char32_t c) {
  return c < 0x80 ? c >= 'a' && c <= 'z' : utf8proc_islower(static_cast<utf8proc_int32_t>(c)) != 0;
}
bool is_upper(char32_t c) {
  return c < 0x80 ? c >= 'A' && c <= 'Z' : utf8proc_isupper(static_cast<utf8proc_int32_t>(c)) != 0;
}
bool is_title(char32_t c) { return c >= 0x80 && category(c) == UTF8PROC_CATEGORY_LT; }
bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }
bool is_word(char32_t c) { return c == '_' || is_alpha(c) || is_numeric(c); }

bool is_identifier_start(char32_t c) {
  if (c < 0x80) return is_ascii_letter(c) || c == '_';
  return is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL;
}

bool is_identifier_part(char32_t c) {
  if (c < 0x80) return is_ascii_letter(c) || c == '_' || (c >= '0' && c <= '9');
  const auto k = category(c);
  return is_identifier_start(c) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_MN ||
         k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_PC;
}

int map_upper(char32_t c, char32_t out[3]) {
  if (c < 0x80) {
    out[0] = c >= 'a' && c <= 'z' ? c - 32 : c;
    return 1;
  }
  if (const SpecialCase* s = find_special(c)) return copy_mapping(s->upper, out);
  out[0] = static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
  return 1;
}

int map_lower(char32_t c, char32_t out[3]) {
  if (c < 0x80) {
    out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
    return 1;
  }
  if (c == 0x130) {  // capital I with dot above keeps its dot
    out[0] = 'i';
    out[1] = 0x307;
    return 2;
  }
  out[0] = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  return 1;
}

int map_title(char32_t c, char32_t out[3]) {
  if (c < 0x80) return map_upper(c, out);
  if (const SpecialCase* s = find_special(c)) return copy_mapping(s->title, out);
  out[0] = static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
  return 1;
}

int map_fold(char32_t c, char32_t out[3]) {
  if (c < 0x80) return map_lower(c, out);
  utf8proc_int32_t folded[4];
  int boundary = 0;
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded, 4, UTF8PROC_CASEFOLD, &boundary);
  if (n < 1 || n > 3) {
    out[0] = c;
    return 1;
  }
  for (int i = 0; i < n; ++i) out[i] = static_cast<char32_t>(folded[i]);
  return static_cast<int>(n);
}

}  // namespace engine::jinja
