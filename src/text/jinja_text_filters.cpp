// Filters that make text or numbers of one value.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

namespace {

bool given(const Value& v) { return !v.is_missing(); }
bool flag(Evaluator& ev, const Value& v, bool otherwise = false) { return given(v) ? ev.truthy(v) : otherwise; }

Value upper(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return map_case(ev, ev.to_str(v), CaseMap::upper);
}
Value lower(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return map_case(ev, ev.to_str(v), CaseMap::lower);
}
Value capitalize(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return map_case(ev, ev.to_str(v), CaseMap::capitalize);
}
Value title(Evaluator& ev, const Value& v, const Value*, CallArgs&) { return title_words(ev, ev.to_str(v)); }
Value trim(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  return strip(ev, ev.to_str(v), p[0], true, true);
}
Value string(Evaluator& ev, const Value& v, const Value*, CallArgs&) { return ev.to_str(v); }
Value safe(Evaluator& ev, const Value& v, const Value*, CallArgs&) { return as_markup(ev, ev.to_str(v), true); }

Value escape(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  const Value s = ev.to_str(v);
  if (s.string().markup) return s;
  TextBuilder out(ev.budget);
  append_escaped(out, s.string());
  return out.finish(true);
}

Value force_escape(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  const Value s = ev.to_str(v);
  TextBuilder out(ev.budget);
  append_escaped(out, s.string());
  return out.finish(true);
}

Value replace_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const int64_t count = given(p[2]) && !p[2].is_none() ? ev.index_argument(p[2]) : -1;
  return replace(ev, as_markup(ev, ev.to_str(v), false), ev.to_str(p[0]), ev.to_str(p[1]), count);
}

Value indent_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is_string()) raise_type_error("unsupported operand type(s) for +=: '" + type_name(v) + "' and 'str'");
  return indent(ev, v, p[0], flag(ev, p[1]), flag(ev, p[2]));
}

Value center(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  return pad(ev, ev.to_str(v), given(p[0]) ? ev.index_argument(p[0]) : 80, Value(), true, true);
}

Value format(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  if (!args.positional.empty() && !args.named.empty())
    raise("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  const Value s = ev.to_str(v);
  if (args.named.empty()) return format_percent(ev, s, ev.tuple(std::move(args.positional)));
  Dict* dict = ev.new_dict();
  const Value named = Value::adopt(dict);
  for (auto& [key, value] : args.named) dict->set(key, std::move(value));
  return format_percent(ev, s, named);
}

Value default_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (!v.is_undefined() && !(flag(ev, p[1]) && !ev.truthy(v))) return v;
  return given(p[0]) ? p[0] : ev.text("", true);
}

Value length(Evaluator& ev, const Value& v, const Value*, CallArgs&) { return Value::integer(ev.length(v)); }

Value to_json(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  JsonStyle style;
  style.ensure_ascii = flag(ev, p[0]);
  if (given(p[1]) && !p[1].is_none()) {
    if (p[1].is_string()) {
      style.indent = ev.plain(p[1]);
    } else {
      const int64_t n = ev.index_argument(p[1]);
      if (n > 1000) raise_value_error("indent is too large");
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(n, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (given(p[2]) && !p[2].is_none()) {
    const std::vector<Value> pair = ev.items(p[2]);
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      raise_value_error("separators must be two strings");
    style.item_separator = ev.plain(pair[0]);
    style.key_separator = ev.plain(pair[1]);
  }
  style.sort_keys = flag(ev, p[3]);
  TextBuilder out(ev.budget);
  append_json(ev, out, v, style);
  return out.finish();
}

// --- numbers
// ----------------------------------------------------------------------------------------------------------------

Value absolute(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  if (v.is(Kind::real)) return Value::real(std::fabs(v.as_real()), v.trusted());
  if (!v.is_integer()) raise_type_error("bad operand type for abs(): '" + type_name(v) + "'");
  return v.as_integer() < 0 ? ev.negate(v) : Value::integer(v.as_integer(), v.trusted());
}

/// Truncates as int(float) does; false for what has no integer.
bool float_to_int(double d, int64_t* out) {
  if (!std::isfinite(d)) return false;
  if (std::fabs(d) >= 9.2e18) raise("OverflowError", "integers beyond 64 bits are not supported");
  *out = static_cast<int64_t>(d);
  return true;
}

Value to_int(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (v.is_undefined()) raise_undefined(v);
  const Value otherwise = given(p[0]) ? p[0] : Value::integer(0);
  int64_t i = 0;
  if (v.is_integer()) return Value::integer(v.as_integer(), v.trusted());
  if (v.is(Kind::big_uint)) return v;
  if (v.is(Kind::real)) {
    if (float_to_int(v.as_real(), &i)) return Value::integer(i, v.trusted());
    if (std::isnan(v.as_real())) return otherwise;
    raise("OverflowError", "cannot convert float infinity to integer");
  }
  if (!v.is_string()) return otherwise;
  const bool trusted = v.string().all_trusted();
  if (parse_int(v.string().text,
                given(p[1]) ? static_cast<int>(std::clamp<int64_t>(ev.index_argument(p[1]), -1, 99)) : 10, &i))
    return Value::integer(i, trusted);
  double d;
  if (parse_float(v.string().text, &d) && float_to_int(d, &i)) return Value::integer(i, trusted);
  return otherwise;
}

/// With null for `p` a value that is no number gives none.
Value to_float(Evaluator&, const Value& v, const Value* p, CallArgs&) {
  if (v.is_undefined()) raise_undefined(v);
  double d;
  if (v.is_number()) return Value::real(v.as_real(), v.trusted());
  if (v.is(Kind::big_uint)) return Value::real(static_cast<double>(v.as_big_uint()), v.trusted());
  if (v.is_string() && parse_float(v.string().text, &d)) return Value::real(d, v.string().all_trusted());
  if (p == nullptr) return Value::none();
  return given(p[0]) ? p[0] : Value::real(0);
}

/// round(float, digits): to the nearest, on the decimal value, as Python does it.
double round_decimal(double d, int64_t digits) {
  if (!std::isfinite(d) || digits > 300) return d;
  if (digits < -308) return std::copysign(0.0, d);
  if (digits < 0) {
    const double power = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(d / power) * power;
  }
  char buffer[700];
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), d);  // correctly rounded, ties to even
  return std::strtod(buffer, nullptr);
}

Value round_integer(const Value& v, int64_t digits) {
  const int64_t i = v.as_integer();
  if (digits >= 0) return Value::integer(i, v.trusted());
  if (digits < -18) return Value::integer(0, v.trusted());
  int64_t power = 1;
  for (int64_t k = 0; k < -digits; ++k) power *= 10;
  int64_t rest = i % power;
  if (rest < 0) rest += power;
  int64_t down = 0;
  if (__builtin_sub_overflow(i, rest, &down)) raise("OverflowError", "integers beyond 64 bits are not supported");
  const bool up = rest > power - rest || (rest == power - rest && (down / power) % 2 != 0);
  if (up && __builtin_add_overflow(down, power, &down))
    raise("OverflowError", "integers beyond 64 bits are not supported");
  return Value::integer(down, v.trusted());
}

Value round_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const int64_t digits = given(p[0]) ? ev.index_argument(p[0]) : 0;
  const std::string method = given(p[1]) ? ev.plain(p[1]) : "common";
  if (!v.is_number()) raise_type_error("type " + type_name(v) + " doesn't define __round__ method");
  if (method == "common")
    return v.is_integer() ? round_integer(v, digits) : Value::real(round_decimal(v.as_real(), digits), v.trusted());
  if (method != "ceil" && method != "floor") raise("FilterArgumentError", "method must be common, ceil or floor");
  const double power = std::pow(10.0, static_cast<double>(digits));
  const double scaled = v.as_real() * power;
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power + 0.0,
                     v.trusted());  // no -0.0
}

Value file_size(Evaluator& ev, const Value& v, const Value* p, CallArgs& args) {
  const Value number = to_float(ev, v, nullptr, args);
  if (!number.is(Kind::real))
    raise_type_error("float() argument must be a string or a real number, not '" + type_name(v) + "'");
  const double bytes = number.as_real();
  const bool binary = flag(ev, p[0]);
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return ev.text("1 Byte", v.trusted());
  if (bytes < base) return ev.text(std::to_string(static_cast<int64_t>(bytes)) + " Bytes", v.trusted());
  static constexpr std::string_view prefixes = "kMGTPEZY";
  double unit = base;
  size_t i = 0;
  while (i + 1 < prefixes.size() && bytes >= unit * base) {
    unit *= base;
    ++i;
  }
  char buffer[400];
  const char letter = binary && i == 0 ? 'K' : prefixes[i];
  std::snprintf(buffer, sizeof buffer, "%.1f %c%sB", bytes / unit, letter, binary ? "i" : "");
  return ev.text(buffer, v.trusted());
}

// --- prose
// --------------------------------------------------------------------------------------------------------------------

Value truncate(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const int64_t limit = given(p[0]) ? ev.index_argument(p[0]) : 255;
  const Value end = given(p[2]) ? ev.to_str(p[2]) : ev.text("...", true);
  const int64_t leeway = given(p[3]) && !p[3].is_none() ? ev.index_argument(p[3]) : 5;
  const int64_t keep = limit - ev.length(end);
  if (keep < 0) raise("AssertionError", "expected length >= " + std::to_string(ev.length(end)));
  if (leeway < 0) raise("AssertionError", "expected leeway >= 0");
  if (limit > INT64_MAX - leeway || ev.length(v) <= limit + leeway) return v;
  if (!v.is_string()) raise_type_error("'" + type_name(v) + "' object cannot be truncated");
  Value head = ev.slice(v, Value::none(), Value::integer(keep), Value::none());
  if (!flag(ev, p[1])) head = split(ev, head, ev.text(" ", true), 1, true)[0];
  return ev.binary(ExprType::add, head, end);
}

Value word_count(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  const Value s = ev.to_str(v);
  const std::string_view t = s.string().text;
  ev.budget.spend(t.size() / 8);
  int64_t n = 0;
  bool inside = false;
  for (size_t pos = 0; pos < t.size();) {
    const bool word = is_word(utf8_next(t, &pos));
    n += word && !inside;
    inside = word;
  }
  return Value::integer(n);
}

struct Chunk {
  size_t begin, end;
  size_t width;  // in code points
  bool space;
};

/// Words, the white space between them, and (as textwrap does) the parts of hyphenated words.
std::vector<Chunk> wrap_chunks(std::string_view t, bool break_on_hyphens) {
  std::vector<Chunk> chunks;
  bool letters_before = false;  // two letters in the current chunk, so that a hyphen may end it
  char32_t before = 0;
  for (size_t pos = 0; pos < t.size();) {
    const size_t begin = pos;
    const char32_t c = utf8_next(t, &pos);
    const bool space = c < 0x80 && is_space(c);
    if (chunks.empty() || chunks.back().space != space) chunks.push_back({begin, begin, 0, space});
    chunks.back().end = pos;
    ++chunks.back().width;
    size_t next = pos;
    const bool letter_after = pos < t.size() && is_alpha(utf8_next(t, &next));
    if (break_on_hyphens && c == '-' && letters_before && letter_after) {
      chunks.push_back({pos, pos, 0, false});
      letters_before = false;
    } else {
      letters_before = is_word(c) && !is_numeric(c) && (letters_before || is_alpha(before) || is_alpha(c));
    }
    before = c;
  }
  std::erase_if(chunks, [](const Chunk& c) { return c.width == 0; });
  return chunks;
}

void wrap_line(Evaluator& ev, TextBuilder& out, const String& s, size_t offset, std::string_view t, size_t width,
               bool break_long, bool hyphens, const Value& newline) {
  std::vector<Chunk> chunks = wrap_chunks(t, hyphens);
  std::reverse(chunks.begin(), chunks.end());
  bool first = true;
  while (!chunks.empty()) {
    ev.budget.spend(1);
    if (chunks.back().space && !first) chunks.pop_back();
    std::vector<Chunk> line;
    size_t used = 0;
    while (!chunks.empty() && used + chunks.back().width <= width) {
      used += chunks.back().width;
      line.push_back(chunks.back());
      chunks.pop_back();
    }
    if (!chunks.empty() && chunks.back().width > width) {
      if (break_long) {
        Chunk& word = chunks.back();
        const size_t room = std::max<size_t>(1, width - std::min(width, used));
        const size_t cut = word.begin + utf8_offset(t.substr(word.begin, word.end - word.begin), room);
        line.push_back({word.begin, cut, room, false});
        word.begin = cut;
        word.width -= room;
      } else if (line.empty()) {
        line.push_back(chunks.back());
        chunks.pop_back();
      }
    }
    if (!line.empty() && line.back().space) line.pop_back();
    if (line.empty()) continue;
    if (!first) out.append(newline.string());
    first = false;
    out.append(s, offset + line.front().begin, offset + line.back().end);
  }
}

Value word_wrap(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is_string()) raise_type_error("'" + type_name(v) + "' object has no attribute 'splitlines'");
  const int64_t width = given(p[0]) ? ev.index_argument(p[0]) : 79;
  if (width <= 0) raise_value_error("invalid width " + std::to_string(width) + " (must be > 0)");
  const Value newline = given(p[2]) && !p[2].is_none() ? ev.to_str(p[2]) : ev.text("\n", true);
  TextBuilder out(ev.budget);
  bool first = true;
  for (const Value& line : split_lines(ev, v, false)) {
    if (!first) out.append(newline.string());
    first = false;
    const std::string_view t = line.string().text;
    ev.budget.spend(t.size() / 4);
    wrap_line(ev, out, line.string(), 0, t, static_cast<size_t>(width), flag(ev, p[1], true), flag(ev, p[3], true),
              newline);
  }
  return out.finish();
}

Value strip_tags(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  // markupsafe: comments go, then tags, then runs of white space become one blank. Entities stay as they are.
  const Value s = ev.to_str(v);
  const String& from = s.string();
  const std::string_view t = from.text;
  ev.budget.spend(t.size() / 8);
  TextBuilder kept(ev.budget);
  size_t pos = 0;
  while (pos < t.size()) {
    const size_t open = t.find('<', pos);
    if (open == std::string_view::npos) break;
    const bool comment = t.substr(open, 4) == "<!--";
    const size_t close = comment ? find_text(t, "-->", open + 4) : t.find('>', open);
    if (close == std::string_view::npos) break;
    kept.append(from, pos, open);
    pos = close + (comment ? 3 : 1);
  }
  kept.append(from, pos, t.size());
  TextBuilder out(ev.budget);
  for (const Value& word : split(ev, kept.finish(), Value(), -1, false)) {
    if (out.size() > 0) out.append(" ", word.string().all_trusted());
    out.append(word.string());
  }
  return out.finish();
}

// --- for the web
// --------------------------------------------------------------------------------------------------------------

/// urllib's quote; in a query string blanks become + and / is quoted too.
void append_quoted(TextBuilder& out, const String& s, bool query) {
  TrustCursor trust(s);
  static constexpr char hex[] = "0123456789ABCDEF";
  for (size_t i = 0; i < s.text.size(); ++i) {
    const auto c = static_cast<unsigned char>(s.text[i]);
    const bool plain = (c < 0x80 && is_identifier_part(c)) || c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    const char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
    if (plain)
      out.append(s.text.substr(i, 1), trust.at(i));
    else if (c == ' ' && query)
      out.append("+", trust.at(i));
    else
      out.append(std::string_view(escaped, 3), trust.at(i));
  }
}

Value url_encode(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  TextBuilder out(ev.budget);
  if (v.is_string() || !ev.is_iterable(v)) {
    const Value s = ev.to_str(v);
    ev.budget.spend(s.string().text.size() / 4);
    append_quoted(out, s.string(), false);
    return out.finish();
  }
  std::vector<Value> pairs;
  if (v.is(Kind::dict)) {
    for (const DictEntry& e : v.dict().entries) pairs.push_back(ev.tuple({e.key, e.value}));
  } else {
    pairs = ev.items(v);
  }
  for (const Value& pair : pairs) {
    const std::vector<Value> parts = ev.items(pair);
    if (parts.size() != 2) raise_value_error("not enough values to unpack (expected 2)");
    if (out.size() > 0) out.append("&", true);
    append_quoted(out, ev.to_str(parts[0]).string(), true);
    out.append("=", true);
    append_quoted(out, ev.to_str(parts[1]).string(), true);
  }
  return out.finish();
}

Value xml_attributes(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (!v.is(Kind::dict)) raise_type_error("'" + type_name(v) + "' object has no attribute 'items'");
  TextBuilder out(ev.budget);
  for (const DictEntry& e : v.dict().entries) {
    if (e.value.is_none() || e.value.is_undefined()) continue;
    if (!e.key.is_string()) raise_type_error("expected string, got '" + type_name(e.key) + "'");
    if (e.key.string().text.find_first_of(" \t\n\r\f\v/>=") != std::string_view::npos)
      raise_value_error("Invalid character in attribute name");
    if (out.size() > 0 || flag(ev, p[0], true)) out.append(" ", true);
    append_escaped(out, e.key.string());
    out.append("=\"", true);
    const Value s = ev.to_str(e.value);
    if (s.string().markup)
      out.append(s.string());
    else
      append_escaped(out, s.string());
    out.append("\"", true);
  }
  return out.finish();
}

}  // namespace

const Builtin text_filters[] = {
    {"abs", absolute},
    {"capitalize", capitalize},
    {"center", center, 0, {"width"}},
    {"count", length},
    {"d", default_filter, 0, {"default_value", "boolean"}},
    {"default", default_filter, 0, {"default_value", "boolean"}},
    {"e", escape},
    {"escape", escape},
    {"filesizeformat", file_size, 0, {"binary"}},
    {"float", to_float, 0, {"default"}},
    {"forceescape", force_escape},
    {"format", format, 0, {}, Binding::variadic},
    {"indent", indent_filter, 0, {"width", "first", "blank"}},
    {"int", to_int, 0, {"default", "base"}},
    {"length", length},
    {"lower", lower},
    {"replace", replace_filter, 2, {"old", "new", "count"}},
    {"round", round_filter, 0, {"precision", "method"}},
    {"safe", safe},
    {"string", string},
    {"striptags", strip_tags},
    {"title", title},
    {"tojson", to_json, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", trim, 0, {"chars"}},
    {"truncate", truncate, 0, {"length", "killwords", "end", "leeway"}},
    {"upper", upper},
    {"urlencode", url_encode},
    {"wordcount", word_count},
    {"wordwrap", word_wrap, 0, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}},
    {"xmlattr", xml_attributes, 0, {"autospace"}},
};
const size_t n_text_filters = std::size(text_filters);

}  // namespace engine::jinja
