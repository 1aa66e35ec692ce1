#include "text/jinja_strings.h"

#include <utf8proc.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

// --- case
// -----------------------------------------------------------------------------------------------------------------

namespace {

constexpr char32_t capital_sigma = 0x3A3;
constexpr char32_t final_sigma = 0x3C2;

bool is_case_ignorable(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      break;
  }
  // Word_Break MidLetter, MidNumLet, Single_Quote
  for (const char32_t other :
       {U'\'', U'.', U':', U'\u00B7', U'\u0387', U'\u055F', U'\u05F4', U'\u2018', U'\u2019', U'\u2024', U'\u2027',
        U'\uFE13', U'\uFE52', U'\uFE55', U'\uFF07', U'\uFF0E', U'\uFF1A'}) {
    if (c == other) return true;
  }
  return false;
}

/// Whether a sigma at [begin, end) ends a word: Unicode's Final_Sigma.
bool ends_word(std::string_view text, size_t begin, size_t end) {
  bool letter_before = false;
  for (size_t pos = begin; pos > 0;) {
    pos = utf8_previous(text, pos);
    size_t p = pos;
    const char32_t c = utf8_next(text, &p);
    if (is_case_ignorable(c)) continue;
    letter_before = is_cased(c);
    break;
  }
  if (!letter_before) return false;
  for (size_t pos = end; pos < text.size();) {
    const char32_t c = utf8_next(text, &pos);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

/// What one character becomes, given how many cased letters of its word came before.
int map_one(std::string_view text, size_t begin, size_t end, char32_t c, CaseMap map, bool first, bool after_cased,
            char32_t out[3]) {
  switch (map) {
    case CaseMap::upper:
      return map_upper(c, out);
    case CaseMap::fold:
      return map_fold(c, out);
    case CaseMap::swapcase:
      if (is_lower(c)) return map_upper(c, out);
      if (!is_upper(c)) break;
      [[fallthrough]];
    case CaseMap::lower:
    case CaseMap::title:
    case CaseMap::capitalize:
      if ((map == CaseMap::title && !after_cased) || (map == CaseMap::capitalize && first)) return map_title(c, out);
      if (c == capital_sigma) {
        out[0] = ends_word(text, begin, end) ? final_sigma : 0x3C3;
        return 1;
      }
      return map_lower(c, out);
  }
  out[0] = c;
  return 1;
}

}  // namespace

Value map_case(Evaluator& ev, const Value& v, CaseMap map) {
  const String& s = v.string();
  ev.budget.spend(1 + s.text.size() / 8);
  TextBuilder out(ev.budget);
  out.reserve(s.text.size());
  TrustCursor trust(s);
  bool first = true;
  bool after_cased = false;
  std::string mapped;
  for (size_t pos = 0; pos < s.text.size();) {
    const size_t begin = pos;
    const char32_t c = utf8_next(s.text, &pos);
    char32_t to[3];
    const int n = map_one(s.text, begin, pos, c, map, first, after_cased, to);
    mapped.clear();
    for (int i = 0; i < n; ++i) utf8_append(&mapped, to[i]);
    out.append(mapped, trust.at(begin));
    after_cased = is_cased(c);
    first = false;
  }
  return out.finish(s.markup);
}

Value title_words(Evaluator& ev, const Value& v) {
  const String& s = v.string();
  ev.budget.spend(1 + s.text.size() / 8);
  TextBuilder out(ev.budget);
  bool at_start = true;
  for (size_t pos = 0; pos < s.text.size();) {
    // A word, then what separates it from the next.
    const size_t begin = pos;
    char32_t c = utf8_next(s.text, &pos);
    const bool separator = is_space(c) || (c < 0x80 && std::strchr("-({[<", static_cast<int>(c)) != nullptr && c != 0);
    if (separator) {
      out.append(s, begin, pos);
      at_start = true;
      continue;
    }
    const Value one = substring(ev.budget, v, begin, pos);
    const Value mapped = map_case(ev, one, at_start ? CaseMap::upper : CaseMap::lower);
    out.append(mapped.string());
    at_start = false;
  }
  return out.finish();
}

// --- Markup
// -----------------------------------------------------------------------------------------------------------------

Value as_markup(Evaluator& ev, const Value& s, bool markup) {
  if (s.string().markup == markup) return s;
  TextBuilder out(ev.budget);
  out.append(s.string());
  return out.finish(markup);
}

Value escaped_for(Evaluator& ev, const Value& self, const Value& argument) {
  if (!self.string().markup || !argument.is_string() || argument.string().markup) return argument;
  TextBuilder out(ev.budget);
  append_escaped(out, argument.string());
  return out.finish(true);
}

// --- cutting and joining
// --------------------------------------------------------------------------------------------------------

size_t find_text(std::string_view text, std::string_view what, size_t begin) {
  if (begin > text.size()) return std::string_view::npos;
  if (what.empty()) return begin;
  const void* found = memmem(text.data() + begin, text.size() - begin, what.data(), what.size());
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t rfind_text(std::string_view text, std::string_view what) {
  // string_view::rfind may be quadratic, so walk forward over the (linear) searches.
  if (what.empty()) return text.size();
  size_t last = std::string_view::npos;
  if (what.size() <= 16) return text.rfind(what);
  for (size_t at = find_text(text, what); at != std::string_view::npos; at = find_text(text, what, at + 1)) last = at;
  return last;
}

Value strip(Evaluator& ev, const Value& v, const Value& chars, bool left, bool right) {
  const String& s = v.string();
  if (!chars.is_missing() && !chars.is_none() && !chars.is_string()) raise_type_error("strip arg must be None or str");
  ev.budget.spend(1);
  std::vector<char32_t> set;
  if (chars.is_string()) {
    const std::string_view t = chars.string().text;
    ev.budget.spend(t.size());
    for (size_t pos = 0; pos < t.size();) set.push_back(utf8_next(t, &pos));
    std::sort(set.begin(), set.end());
  }
  size_t taken = 0;
  const auto drops = [&](char32_t c) {
    ++taken;
    return chars.is_string() ? std::binary_search(set.begin(), set.end(), c) : is_space(c);
  };
  size_t begin = 0;
  size_t end = s.text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!drops(utf8_next(s.text, &next))) break;
    begin = next;
  }
  while (right && end > begin) {
    const size_t previous = utf8_previous(s.text, end);
    size_t next = previous;
    if (!drops(utf8_next(s.text, &next))) break;
    end = previous;
  }
  ev.budget.spend(taken / 8);
  return substring(ev.budget, v, begin, end);
}

Value replace(Evaluator& ev, const Value& v, const Value& old_text, const Value& new_text, int64_t count) {
  if (!old_text.is_string() || !new_text.is_string())
    raise_type_error("replace() argument must be str, not " + type_name(old_text.is_string() ? new_text : old_text));
  const String& s = v.string();
  const std::string_view what = old_text.string().text;
  ev.budget.spend(1 + s.text.size() / 64);
  auto left = count < 0 ? UINT64_MAX : static_cast<uint64_t>(count);
  TextBuilder out(ev.budget);
  size_t pos = 0;
  if (what.empty()) {  // between all characters, and at both ends
    while (left > 0) {
      ev.budget.spend(1);
      out.append(new_text.string());
      --left;
      if (pos >= s.text.size()) break;
      const size_t begin = pos;
      utf8_next(s.text, &pos);
      out.append(s, begin, pos);
    }
  } else {
    while (left > 0) {
      const size_t at = find_text(s.text, what, pos);
      if (at == std::string_view::npos) break;
      ev.budget.spend(1);
      out.append(s, pos, at);
      out.append(new_text.string());
      pos = at + what.size();
      --left;
    }
    if (pos == 0) return v;
  }
  out.append(s, pos, s.text.size());
  return out.finish(s.markup);
}

namespace {

std::vector<Value> split_space(Evaluator& ev, const Value& v, int64_t limit) {
  const std::string_view t = v.string().text;
  std::vector<Value> parts;
  size_t pos = 0;
  const auto skip = [&](bool space) {
    while (pos < t.size()) {
      size_t next = pos;
      if (is_space(utf8_next(t, &next)) != space) break;
      pos = next;
    }
  };
  while (true) {
    skip(true);
    if (pos >= t.size()) return parts;
    const size_t begin = pos;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) {
      const Value rest = substring(ev.budget, v, begin, t.size());
      parts.push_back(strip(ev, rest, Value(), false, true));
      return parts;
    }
    skip(false);
    parts.push_back(substring(ev.budget, v, begin, pos));
  }
}

std::vector<Value> rsplit_space(Evaluator& ev, const Value& v, int64_t limit) {
  const std::string_view t = v.string().text;
  std::vector<Value> parts;
  size_t end = t.size();
  const auto skip = [&](bool space) {
    while (end > 0) {
      const size_t previous = utf8_previous(t, end);
      size_t next = previous;
      if (is_space(utf8_next(t, &next)) != space) break;
      end = previous;
    }
  };
  while (true) {
    skip(true);
    if (end == 0) break;
    const size_t stop = end;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) {
      const Value rest = substring(ev.budget, v, 0, stop);
      parts.push_back(strip(ev, rest, Value(), true, false));
      break;
    }
    skip(false);
    parts.push_back(substring(ev.budget, v, end, stop));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::vector<Value> split(Evaluator& ev, const Value& v, const Value& separator, int64_t limit, bool from_right) {
  const std::string_view t = v.string().text;
  ev.budget.spend(1 + t.size() / 32);
  if (separator.is_missing() || separator.is_none())
    return from_right ? rsplit_space(ev, v, limit) : split_space(ev, v, limit);
  if (!separator.is_string()) raise_type_error("must be str or None, not " + type_name(separator));
  const std::string_view what = separator.string().text;
  if (what.empty()) raise_value_error("empty separator");
  std::vector<size_t> cuts;
  for (size_t at = find_text(t, what); at != std::string_view::npos; at = find_text(t, what, at + what.size())) {
    if (!from_right && limit >= 0 && static_cast<int64_t>(cuts.size()) >= limit) break;
    ev.budget.check_items(cuts.size());
    cuts.push_back(at);
  }
  if (from_right && limit >= 0) {
    // From the right, matches that overlap are counted from the other end.
    cuts.clear();
    size_t end = t.size();
    while (static_cast<int64_t>(cuts.size()) < limit) {
      const size_t at = rfind_text(t.substr(0, end), what);
      if (at == std::string_view::npos) break;
      ev.budget.spend(1 + (what.size() > 16 ? end / 64 : 0));
      cuts.push_back(at);
      end = at;
    }
    std::reverse(cuts.begin(), cuts.end());
  }
  std::vector<Value> parts;
  parts.reserve(cuts.size() + 1);
  size_t begin = 0;
  for (const size_t cut : cuts) {
    parts.push_back(substring(ev.budget, v, begin, cut));
    begin = cut + what.size();
  }
  parts.push_back(substring(ev.budget, v, begin, t.size()));
  return parts;
}

std::vector<Value> split_lines(Evaluator& ev, const Value& v, bool keep_ends) {
  const std::string_view t = v.string().text;
  ev.budget.spend(1 + t.size() / 16);
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < t.size();) {
    const size_t at = pos;
    const char32_t c = utf8_next(t, &pos);
    if (!is_line_break(c)) continue;
    if (c == '\r' && pos < t.size() && t[pos] == '\n') ++pos;
    ev.budget.check_items(lines.size());
    lines.push_back(substring(ev.budget, v, begin, keep_ends ? pos : at));
    begin = pos;
  }
  if (begin < t.size()) lines.push_back(substring(ev.budget, v, begin, t.size()));
  return lines;
}

Value pad(Evaluator& ev, const Value& v, int64_t width, const Value& fill, bool left, bool right) {
  const String& s = v.string();
  std::string_view filler = " ";
  bool trusted = s.all_trusted();
  if (!fill.is_missing()) {
    if (!fill.is_string() || fill.string().length() != 1)
      raise_type_error("The fill character must be exactly one character long");
    filler = fill.string().text;
    trusted = fill.string().all_trusted();
  }
  const auto n = static_cast<int64_t>(s.length());
  if (width <= n) return v;
  const int64_t total = width - n;
  // Python's str.center puts the odd one to the left when the width is odd.
  const int64_t before = left && right ? total / 2 + (total & width & 1) : left ? total : 0;
  ev.budget.spend(static_cast<uint64_t>(total));
  TextBuilder out(ev.budget);
  out.append_repeated(filler, static_cast<size_t>(before), trusted);
  out.append(s);
  out.append_repeated(filler, static_cast<size_t>(total - before), trusted);
  return out.finish(s.markup);
}

Value indent(Evaluator& ev, const Value& v, const Value& width, bool first, bool blank) {
  const String& s = v.string();
  Value indention;
  if (width.is_string()) {
    indention = escaped_for(ev, v, width);
  } else {
    const int64_t n = width.is_missing() ? 4 : ev.index_argument(width);
    TextBuilder spaces(ev.budget);
    spaces.append_repeated(" ", static_cast<size_t>(std::max<int64_t>(n, 0)), s.all_trusted());
    indention = spaces.finish();
  }
  // Jinja adds a newline first, so that a text that ends in one keeps an empty last line.
  TextBuilder with_end(ev.budget);
  with_end.append(s);
  with_end.append("\n", s.all_trusted());
  const std::vector<Value> lines = split_lines(ev, with_end.finish(), false);
  TextBuilder out(ev.budget);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n", s.all_trusted());
    if (i == 0 ? first : blank || !lines[i].string().text.empty()) out.append(indention.string());
    out.append(lines[i].string());
  }
  return out.finish(s.markup);
}

// --- numbers
// ----------------------------------------------------------------------------------------------------------------

/// Of a character of category Nd: ten in a row, which start at a multiple of 16 or six beyond it, but for the
/// mathematical ones.
static int decimal_value(char32_t c) {
  if (c >= 0x1D7CE && c <= 0x1D7FF) return static_cast<int>((c - 0x1D7CE) % 10);
  const char32_t low = c % 16;
  return static_cast<int>(is_decimal(c - low) ? low : low - 6);
}

/// Without surrounding white space, other scripts' decimal digits as ASCII, single underscores between digits removed.
/// False if it cannot be a number.
static bool clean_number(std::string_view text, std::string* out) {
  size_t begin = 0;
  size_t end = text.size();
  while (begin < end) {
    size_t next = begin;
    if (!is_space(utf8_next(text, &next))) break;
    begin = next;
  }
  while (end > begin) {
    const size_t previous = utf8_previous(text, end);
    size_t next = previous;
    if (!is_space(utf8_next(text, &next))) break;
    end = previous;
  }
  if (end - begin > 2000) return false;
  for (size_t pos = begin; pos < end;) {
    const char32_t c = utf8_next(text, &pos);
    if (c == '_') {
      const bool inside = !out->empty() && std::isalnum(static_cast<unsigned char>(out->back())) && pos < end &&
                          std::isalnum(static_cast<unsigned char>(text[pos]));
      if (!inside) return false;
      continue;
    }
    if (c >= 0x80) {
      if (!is_decimal(c)) return false;
      out->push_back(static_cast<char>('0' + decimal_value(c)));
      continue;
    }
    out->push_back(static_cast<char>(c));
  }
  return !out->empty();
}

bool parse_int(std::string_view text, int base, int64_t* out) {
  std::string s;
  if (!clean_number(text, &s)) return false;
  size_t i = 0;
  const bool negative = s[0] == '-';
  if (s[0] == '-' || s[0] == '+') ++i;
  const char mark = i + 1 < s.size() && s[i] == '0' ? static_cast<char>(s[i + 1] | 32) : '\0';
  const int prefix = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  if (prefix != 0 && (base == 0 || base == prefix)) {
    base = prefix;
    i += 2;
  } else if (base == 0) {
    base = 10;
  }
  if (base < 2 || base > 36) raise_value_error("int() base must be >= 2 and <= 36, or 0");
  if (i >= s.size() || s[i] == '-' || s[i] == '+') return false;
  uint64_t value = 0;
  const auto result = std::from_chars(s.data() + i, s.data() + s.size(), value, base);
  if (result.ptr != s.data() + s.size() && result.ec != std::errc::result_out_of_range) return false;
  if (result.ec == std::errc::invalid_argument) return false;
  if (result.ec != std::errc() || value > static_cast<uint64_t>(INT64_MAX))
    raise("OverflowError", "integers beyond 64 bits are not supported");
  *out = negative ? -static_cast<int64_t>(value) : static_cast<int64_t>(value);
  return true;
}

bool parse_float(std::string_view text, double* out) {
  std::string s;
  if (!clean_number(text, &s)) return false;
  std::string lower = s;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool sign = lower[0] == '+' || lower[0] == '-';
  const std::string_view word = std::string_view(lower).substr(sign ? 1 : 0);
  if (word != "inf" && word != "infinity" && word != "nan" &&
      word.find_first_not_of("0123456789.e+-") != std::string_view::npos)
    return false;
  char* end = nullptr;
  *out = std::strtod(lower.c_str(), &end);
  return end == lower.c_str() + lower.size();
}

}  // namespace engine::jinja
