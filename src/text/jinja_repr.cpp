// Values as text: str(), repr(), json.dumps.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

// d as the shortest "-1.25e-07" that reads back as d, and among those the nearest to d. std::to_chars would do, but brings tables of
// 130 KB for the few floats that templates print.
static std::string shortest_scientific(double d) {
  char text[32];
  const auto reads_back = [&](int n_digits) {
    std::snprintf(text, sizeof text, "%.*e", n_digits - 1, d);
    return std::strtod(text, nullptr) == d;
  };
  int n_digits = 15;  // whatever has up to 15 digits is found with 15, and zeros after it
  while (n_digits < 17 && !reads_back(n_digits)) n_digits++;
  if (n_digits == 17) {
    // Beside a power of two the doubles above lie further apart than those below: the nearest decimal may be one for the number
    // below, while the next one up reads back.
    reads_back(16);
    char* last = std::strchr(text, 'e') - 1;
    if (*last < '9') ++*last;
    if (std::strtod(text, nullptr) != d) reads_back(17);
  } else {
    reads_back(n_digits);
  }
  std::string out = text;
  const size_t e = out.find('e');
  size_t end = e;
  while (out[end - 1] == '0') end--;
  if (out[end - 1] == '.') end--;
  return out.erase(end, e - end);
}

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  if (d == 0) return std::signbit(d) ? "-0.0" : "0.0";
  // The shortest digits that read back as the same number, then Python's choice of notation.
  const std::string shortest = shortest_scientific(d);
  std::string_view s = shortest;
  std::string out;
  if (s[0] == '-') {
    out = "-";
    s.remove_prefix(1);
  }
  const size_t e = s.find('e');
  int exponent = 0;
  std::from_chars(s.data() + e + (s[e + 1] == '+' ? 2 : 1), s.data() + s.size(), exponent);
  std::string digits(s.substr(0, 1));
  if (e > 2) digits += s.substr(2, e - 2);
  const auto n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (n > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string number = std::to_string(std::abs(exponent));
    out += number.size() < 2 ? "0" + number : number;
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (n <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - n), '0') + ".0";
  } else {
    out += digits.substr(0, static_cast<size_t>(exponent) + 1) + "." + digits.substr(static_cast<size_t>(exponent) + 1);
  }
  return out;
}

namespace {

void append_hex(std::string* out, char32_t c, int width) {
  static constexpr char hex[] = "0123456789abcdef";
  for (int shift = (width - 1) * 4; shift >= 0; shift -= 4) out->push_back(hex[c >> shift & 15]);
}

/// Copies s, with what `escape` gives for a code point in its place; stretches that need none are copied whole.
template <class F>
void append_mapped(TextBuilder& out, const String& s, F&& escape) {
  TrustCursor trust(s);
  size_t begin = 0;
  std::string replacement;
  for (size_t pos = 0; pos < s.text.size();) {
    const size_t at = pos;
    replacement.clear();
    if (!escape(utf8_next(s.text, &pos), &replacement)) continue;
    out.append(s, begin, at);
    out.append(replacement, trust.at(at));
    begin = pos;
  }
  out.append(s, begin, s.text.size());
}

void append_string_repr(TextBuilder& out, const String& s) {
  const bool has_single = s.text.find('\'') != std::string_view::npos;
  const char quote = has_single && s.text.find('"') == std::string_view::npos ? '"' : '\'';
  const std::string_view quotes(&quote, 1);
  const bool trusted = s.all_trusted();
  if (s.markup) out.append("Markup(", trusted);
  out.append(quotes, trusted);
  append_mapped(out, s, [&](char32_t c, std::string* to) {
    if (c == static_cast<char32_t>(quote) || c == '\\')
      *to = {'\\', static_cast<char>(c)};
    else if (c == '\n')
      *to = "\\n";
    else if (c == '\r')
      *to = "\\r";
    else if (c == '\t')
      *to = "\\t";
    else if (is_printable(c))
      return false;
    else if (c < 0x100)
      *to = "\\x", append_hex(to, c, 2);
    else if (c < 0x10000)
      *to = "\\u", append_hex(to, c, 4);
    else
      *to = "\\U", append_hex(to, c, 8);
    return true;
  });
  out.append(quotes, trusted);
  if (s.markup) out.append(")", trusted);
}

std::string bytes_repr(std::string_view data) {
  const char quote = data.find('\'') != std::string_view::npos && data.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out = "b";
  out += quote;
  for (const char ch : data) {
    const auto c = static_cast<unsigned char>(ch);
    if (c == static_cast<unsigned char>(quote) || c == '\\')
      out += '\\', out += ch;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c >= 0x20 && c < 0x7f)
      out += ch;
    else
      out += "\\x", append_hex(&out, c, 2);
  }
  out += quote;
  return out;
}

}  // namespace

void Evaluator::append_str(TextBuilder& out, const Value& v) {
  if (v.is_string()) {
    budget.spend(v.string().text.size() / 256);
    out.append(v.string());
  } else if (!v.is_undefined()) {
    append_repr(out, v);
  }
}

Value Evaluator::to_str(const Value& v) {
  if (v.is_string()) return v;
  TextBuilder out(budget);
  append_str(out, v);
  return out.finish();
}

std::string Evaluator::plain(const Value& v) {
  const Value s = to_str(v);
  return std::string(s.string().text);
}

void Evaluator::append_container(TextBuilder& out, const std::vector<Value>& items, std::string_view open,
                                 std::string_view close, int depth) {
  out.append(open, false);
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(", ", false);
    append_repr(out, items[i], depth + 1);
  }
  out.append(close, false);
}

/// The punctuation of containers is marked untrusted: most hold input, and a template never needs it to form a control
/// token.
void Evaluator::append_repr(TextBuilder& out, const Value& v, int depth) {
  budget.spend(1);
  if (depth > max_nesting) raise_too_nested();
  switch (v.kind()) {
    case Kind::none:
      out.append("None", v.trusted());
      break;
    case Kind::boolean:
      out.append(v.as_bool() ? "True" : "False", v.trusted());
      break;
    case Kind::integer:
      out.append(std::to_string(v.as_integer()), v.trusted());
      break;
    case Kind::big_uint:
      out.append(std::to_string(v.as_big_uint()), v.trusted());
      break;
    case Kind::real:
      out.append(float_repr(v.as_real()), v.trusted());
      break;
    case Kind::string:
      append_string_repr(out, v.string());
      break;
    case Kind::bytes:
      out.append(bytes_repr(v.as<Bytes>().data), v.as<Bytes>().trusted);
      break;
    case Kind::list:
      append_container(out, v.list().items, "[", "]", depth);
      break;
    case Kind::tuple:
      append_container(out, v.list().items, "(", v.list().items.size() == 1 ? ",)" : ")", depth);
      break;
    case Kind::dict: {
      out.append("{", false);
      bool first = true;
      for (const DictEntry& e : v.dict().entries) {
        if (!first) out.append(", ", false);
        first = false;
        append_repr(out, e.key, depth + 1);
        out.append(": ", false);
        append_repr(out, e.value, depth + 1);
      }
      out.append("}", false);
      break;
    }
    case Kind::view:
      append_container(out, items(v), type_name(v) + "([", "])", depth);
      break;
    case Kind::range: {
      const Range& r = v.as<Range>();
      out.append("range(" + std::to_string(r.start) + ", " + std::to_string(r.stop) +
                     (r.step != 1 ? ", " + std::to_string(r.step) : "") + ")",
                 true);
      break;
    }
    case Kind::name_space:
      out.append("<Namespace ", true);
      append_repr(out, v.as<Namespace>().attributes, depth + 1);
      out.append(">", true);
      break;
    case Kind::loop:
      out.append("<LoopContext " + std::to_string(v.as<Loop>().index0 + 1) + "/" +
                     std::to_string(v.as<Loop>().length(*this)) + ">",
                 true);
      break;
    case Kind::macro: {
      const String* name = v.as<Macro>().function->name;
      out.append("<Macro " + (name != nullptr ? "'" + std::string(name->text) + "'" : "anonymous") + ">", true);
      break;
    }
    case Kind::function:
    case Kind::method:
      out.append("<" + type_name(v) + " " + std::string(v.as<Callable>().builtin->name) + ">", true);
      break;
    default:
      out.append(v.is_undefined() ? "Undefined" : "<" + type_name(v) + " object>", true);
  }
}

// --- JSON
// -----------------------------------------------------------------------------------------------------------------

namespace {

void append_json_string(TextBuilder& out, const String& s, bool ensure_ascii) {
  const bool trusted = s.all_trusted();
  out.append("\"", trusted);
  append_mapped(out, s, [&](char32_t c, std::string* to) {
    if (c == '"')
      *to = "\\\"";
    else if (c == '\\')
      *to = "\\\\";
    else if (c == '\n')
      *to = "\\n";
    else if (c == '\r')
      *to = "\\r";
    else if (c == '\t')
      *to = "\\t";
    else if (c == '\b')
      *to = "\\b";
    else if (c == '\f')
      *to = "\\f";
    else if (c < 0x20)
      *to = "\\u", append_hex(to, c, 4);
    else if (c < 0x7f || !ensure_ascii)
      return false;
    else if (c < 0x10000)
      *to = "\\u", append_hex(to, c, 4);
    else {
      *to = "\\u";
      append_hex(to, 0xD800 + ((c - 0x10000) >> 10), 4);
      *to += "\\u";
      append_hex(to, 0xDC00 + ((c - 0x10000) & 0x3FF), 4);
    }
    return true;
  });
  out.append("\"", trusted);
}

std::string json_number(const Value& v) {
  if (v.is(Kind::integer)) return std::to_string(v.as_integer());
  if (v.is(Kind::big_uint)) return std::to_string(v.as_big_uint());
  const double d = v.as_real();
  return std::isnan(d) ? "NaN" : std::isinf(d) ? (d < 0 ? "-Infinity" : "Infinity") : float_repr(d);
}

void append_json_key(Evaluator& ev, TextBuilder& out, const Value& key, bool ensure_ascii) {
  if (key.is_string()) return append_json_string(out, key.string(), ensure_ascii);
  std::string text;
  switch (key.kind()) {
    case Kind::none:
      text = "null";
      break;
    case Kind::boolean:
      text = key.as_bool() ? "true" : "false";
      break;
    case Kind::integer:
    case Kind::big_uint:
    case Kind::real:
      text = json_number(key);
      break;
    default:
      raise_type_error("keys must be str, int, float, bool or None, not " + type_name(key));
  }
  const Value s = ev.text(std::move(text), key.trusted());
  append_json_string(out, s.string(), ensure_ascii);
}

void json_newline(TextBuilder& out, const JsonStyle& style, int depth) {
  if (!style.indent) return;
  out.append("\n", false);
  for (int i = 0; i < depth; ++i) out.append(*style.indent, false);
}

}  // namespace

void append_json(Evaluator& ev, TextBuilder& out, const Value& v, const JsonStyle& style, int depth) {
  ev.budget.spend(1);
  if (depth > max_nesting) raise_too_nested();
  switch (v.kind()) {
    case Kind::none:
      out.append("null", v.trusted());
      break;
    case Kind::boolean:
      out.append(v.as_bool() ? "true" : "false", v.trusted());
      break;
    case Kind::integer:
    case Kind::big_uint:
    case Kind::real:
      out.append(json_number(v), v.trusted());
      break;
    case Kind::string:
      ev.budget.spend(v.string().text.size() / 64);
      append_json_string(out, v.string(), style.ensure_ascii);
      break;
    case Kind::list:
    case Kind::tuple: {
      const auto& items = v.list().items;
      out.append("[", false);
      for (size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out.append(style.item_separator, false);
        json_newline(out, style, depth + 1);
        append_json(ev, out, items[i], style, depth + 1);
      }
      if (!items.empty()) json_newline(out, style, depth);
      out.append("]", false);
      break;
    }
    case Kind::dict: {
      std::vector<const DictEntry*> entries;
      for (const DictEntry& e : v.dict().entries) entries.push_back(&e);
      if (style.sort_keys) {
        std::stable_sort(entries.begin(), entries.end(),
                         [&](const DictEntry* a, const DictEntry* b) { return ev.less(a->key, b->key); });
      }
      out.append("{", false);
      bool first = true;
      for (const DictEntry* e : entries) {
        if (!first) out.append(style.item_separator, false);
        first = false;
        json_newline(out, style, depth + 1);
        append_json_key(ev, out, e->key, style.ensure_ascii);
        out.append(style.key_separator, false);
        append_json(ev, out, e->value, style, depth + 1);
      }
      if (!entries.empty()) json_newline(out, style, depth);
      out.append("}", false);
      break;
    }
    default:
      raise_type_error("Object of type " + type_name(v) + " is not JSON serializable");
  }
}

}  // namespace engine::jinja
