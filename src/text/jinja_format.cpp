// Python's two ways to fill in strings: `format % values` and "...".format(...), with the trust of every piece kept.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

namespace {

constexpr int64_t max_precision = 1000;

/// How one value is to be laid out, in either syntax.
struct Spec {
  std::string fill = " ";
  char align = '\0';  // '<' '>' '^' '='; 0: the type's own
  char sign = '-';    // '-' '+' ' '
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  int64_t precision = -1;
  char type = '\0';
};

int64_t read_number(std::string_view s, size_t* i) {
  int64_t n = 0;
  while (*i < s.size() && s[*i] >= '0' && s[*i] <= '9') {
    n = n * 10 + (s[(*i)++] - '0');
    if (n > INT32_MAX) raise_value_error("Too many decimal digits in format string");
  }
  return n;
}

void check_precision(int64_t precision) {
  if (precision > max_precision) raise_value_error("precision is too large");
}

/// Digits of a float for type e, f or g (any case), without sign.
std::string float_digits(double d, char type, int64_t precision, bool alternate) {
  const bool upper = type >= 'A' && type <= 'Z';
  if (std::isnan(d)) return upper ? "NAN" : "nan";
  if (std::isinf(d)) return upper ? "INF" : "inf";
  check_precision(precision);
  char pattern[16];
  std::snprintf(pattern, sizeof pattern, "%%%s.*%c", alternate ? "#" : "", type);
  std::string out(2048, '\0');
  const int n = std::snprintf(out.data(), out.size(), pattern, static_cast<int>(precision), std::fabs(d));
  out.resize(static_cast<size_t>(std::min<int>(n, 2047)));
  return out;
}

std::string integer_digits(uint64_t magnitude, char type) {
  const unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
  const char* digits = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out.push_back(digits[magnitude % base]);
    magnitude /= base;
  } while (magnitude != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

/// Separators every three (or, for other bases, four) digits of the whole part.
std::string group_digits(const std::string& digits, char separator, size_t every) {
  size_t whole = 0;
  while (whole < digits.size() && std::isxdigit(static_cast<unsigned char>(digits[whole])) &&
         (every == 4 || std::isdigit(static_cast<unsigned char>(digits[whole]))))
    ++whole;
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % every == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out + digits.substr(whole);
}

/// Pads `body` (a number with its sign and prefix apart, or text) to the width.
void append_padded(TextBuilder& out, const Spec& spec, const std::string& prefix, const String& body,
                   char default_align, bool fill_trusted) {
  const int64_t used = static_cast<int64_t>(prefix.size() + body.length());
  const int64_t missing = std::max<int64_t>(spec.width - used, 0);
  out.budget().spend(static_cast<uint64_t>(missing));
  const char align = spec.align != '\0' ? spec.align : default_align;
  const int64_t before = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  const int64_t between = align == '=' ? missing : 0;
  out.append_repeated(spec.fill, static_cast<size_t>(before), fill_trusted);
  out.append(prefix, body.all_trusted());
  out.append_repeated(spec.fill, static_cast<size_t>(between), fill_trusted);
  out.append(body);
  out.append_repeated(spec.fill, static_cast<size_t>(missing - before - between), fill_trusted);
}

std::string sign_of(bool negative, char sign) { return negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : ""; }

void append_number(Evaluator& ev, TextBuilder& out, const Spec& spec, std::string prefix, std::string digits,
                   bool trusted, bool fill_trusted) {
  if (spec.grouping != '\0') {
    digits = group_digits(digits, spec.grouping,
                          spec.type == 'x' || spec.type == 'X' || spec.type == 'b' || spec.type == 'o' ? 4 : 3);
    if (spec.align == '=' && spec.fill == "0") {
      // Zeros take part in the grouping.
      while (static_cast<int64_t>(prefix.size() + digits.size()) < spec.width) {
        check_precision(spec.width);
        std::string bare = digits;
        std::erase(bare, spec.grouping);
        digits = group_digits("0" + bare, spec.grouping, 3);
      }
    }
  }
  const Value body = ev.text(std::move(digits), trusted);
  append_padded(out, spec, prefix, body.string(), '>', fill_trusted);
}

void append_integer(Evaluator& ev, TextBuilder& out, const Spec& spec, int64_t i, bool trusted, bool fill_trusted) {
  const uint64_t magnitude = i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
  std::string digits = integer_digits(magnitude, spec.type);
  std::string prefix = sign_of(i < 0, spec.sign);
  if (spec.alternate && (spec.type == 'x' || spec.type == 'X' || spec.type == 'o' || spec.type == 'b'))
    prefix += std::string("0") + spec.type;
  append_number(ev, out, spec, std::move(prefix), std::move(digits), trusted, fill_trusted);
}

void append_float(Evaluator& ev, TextBuilder& out, Spec spec, double d, bool trusted, bool fill_trusted) {
  std::string digits;
  const bool negative = std::signbit(d) && !std::isnan(d);
  if (spec.type == '%') {
    digits = float_digits(d * 100, 'f', spec.precision < 0 ? 6 : spec.precision, spec.alternate) + "%";
  } else if (spec.type == '\0' && spec.precision < 0) {
    digits = float_repr(std::fabs(d));
  } else if (spec.type == '\0') {
    digits = float_digits(d, 'g', std::max<int64_t>(spec.precision, 1), spec.alternate);
    if (digits.find_first_not_of("0123456789") == std::string::npos) digits += ".0";
  } else {
    const char type = spec.type == 'n' ? 'g' : spec.type;
    int64_t precision = spec.precision < 0 ? 6 : spec.precision;
    if ((type == 'g' || type == 'G') && precision == 0) precision = 1;
    digits = float_digits(d, type, precision, spec.alternate);
  }
  append_number(ev, out, spec, sign_of(negative, spec.sign), std::move(digits), trusted, fill_trusted);
}

// --- %
// ------------------------------------------------------------------------------------------------------------------------

class PercentFormatter {
 public:
  PercentFormatter(Evaluator& ev, const Value& format, const Value& values)
      : ev_(ev), format_(format), values_(values), out_(ev.budget) {}

  Value run() {
    const String& f = format_.string();
    const std::string_view t = f.text;
    ev_.budget.spend(1 + t.size() / 16);
    size_t pos = 0;
    while (true) {
      const size_t at = t.find('%', pos);
      if (at == std::string_view::npos) break;
      out_.append(f, pos, at);
      pos = at + 1;
      one(t, &pos);
    }
    out_.append(f, pos, t.size());
    const bool is_mapping = values_.is(Kind::dict) || values_.is(Kind::list) || values_.is_undefined();
    const bool all_used = values_.is(Kind::tuple) ? next_ >= values_.list().items.size() : next_ > 0 || is_mapping;
    if (!all_used) raise_type_error("not all arguments converted during string formatting");
    return out_.finish(f.markup);
  }

 private:
  Value next_value() {
    if (values_.is(Kind::tuple)) {
      if (next_ >= values_.list().items.size()) raise_type_error("not enough arguments for format string");
      return values_.list().items[next_++];
    }
    if (next_++ > 0) raise_type_error("not enough arguments for format string");
    return values_;
  }

  void one(std::string_view t, size_t* pos) {
    Spec spec;
    Value value;
    if (*pos < t.size() && t[*pos] == '(') {
      int depth = 1;
      const size_t begin = ++*pos;
      while (*pos < t.size() && depth > 0) {
        depth += t[*pos] == '(' ? 1 : t[*pos] == ')' ? -1 : 0;
        ++*pos;
      }
      if (depth > 0) raise_value_error("incomplete format key");
      if (!values_.is(Kind::dict)) raise_type_error("format requires a mapping");
      const Value key = ev_.text(std::string(t.substr(begin, *pos - 1 - begin)), true);
      const Value* found = values_.dict().find(key);
      if (found == nullptr) raise("KeyError", "'" + std::string(key.string().text) + "'");
      value = *found;
    }
    bool left = false, zero = false;
    for (; *pos < t.size(); ++*pos) {
      const char c = t[*pos];
      if (c == '-')
        left = true;
      else if (c == '0')
        zero = true;
      else if (c == '+')
        spec.sign = '+';
      else if (c == ' ')
        spec.sign = spec.sign == '+' ? '+' : ' ';
      else if (c == '#')
        spec.alternate = true;
      else
        break;
    }
    spec.width = star_or_number(t, pos, &left);
    if (*pos < t.size() && t[*pos] == '.') {
      ++*pos;
      spec.precision = std::max<int64_t>(star_or_number(t, pos, nullptr), 0);
    }
    while (*pos < t.size() && (t[*pos] == 'h' || t[*pos] == 'l' || t[*pos] == 'L')) ++*pos;
    if (*pos >= t.size()) raise_value_error("incomplete format");
    const char type = t[(*pos)++];
    if (type == '%') {
      out_.append(format_.string(), *pos - 1, *pos);
      return;
    }
    if (value.is_missing()) value = next_value();
    spec.align = left ? '<' : '>';
    convert(type, spec, zero && !left, value);
  }

  int64_t star_or_number(std::string_view t, size_t* pos, bool* left) {
    if (*pos >= t.size() || t[*pos] != '*') return read_number(t, pos);
    ++*pos;
    const Value v = next_value();
    if (!v.is_integer()) raise_type_error("* wants int");
    int64_t n = v.as_integer();
    if (n < 0 && left != nullptr) {
      *left = true;
      n = n == INT64_MIN ? INT64_MAX : -n;
    }
    return n;
  }

  void convert(char type, Spec spec, bool zero, const Value& value) {
    const bool fill_trusted = format_.string().all_trusted();
    spec.type = type;
    switch (type) {
      case 's':
      case 'r':
      case 'a': {
        Value s = type == 's' ? ev_.to_str(value) : repr(value);
        s = escaped_for(ev_, format_, s);
        if (spec.precision >= 0) s = ev_.slice(s, Value::none(), Value::integer(spec.precision), Value::none());
        append_padded(out_, spec, "", s.string(), '>', fill_trusted);
        return;
      }
      case 'c': {
        std::string one;
        bool trusted = value.trusted();
        if (value.is_string() && value.string().length() == 1) {
          one = std::string(value.string().text);
          trusted = value.string().all_trusted();
        } else {
          const int64_t c = value.is_string() ? -1 : ev_.index_argument(value);
          if (c < 0 || c > 0x10FFFF) raise("OverflowError", "%c requires int or char");
          utf8_append(&one, static_cast<char32_t>(c));
        }
        append_padded(out_, spec, "", ev_.text(one, trusted).string(), '>', fill_trusted);
        return;
      }
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X': {
        if (!value.is_number() || (value.is(Kind::real) && (type == 'o' || (type | 32) == 'x')))
          raise_type_error(std::string("%") + type + " format: a number is required, not " + type_name(value));
        if (value.is(Kind::real) && !(std::fabs(value.as_real()) < 9.2e18))
          raise("OverflowError", "cannot convert float to integer");
        const int64_t i = value.is(Kind::real) ? static_cast<int64_t>(value.as_real()) : value.as_integer();
        if (zero) spec.fill = "0", spec.align = '=';
        if (spec.precision >= 0)
          pad_precision(spec, i, value.trusted(), fill_trusted);
        else
          append_integer(ev_, out_, spec, i, value.trusted(), fill_trusted);
        return;
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.is_number()) raise_type_error("must be real number, not " + type_name(value));
        if (zero) spec.fill = "0", spec.align = '=';
        append_float(ev_, out_, spec, value.as_real(), value.trusted(), fill_trusted);
        return;
      default:
        raise_value_error(std::string("unsupported format character '") + type + "'");
    }
  }

  void pad_precision(const Spec& spec, int64_t i, bool trusted, bool fill_trusted) {
    check_precision(spec.precision);
    std::string digits = integer_digits(i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i), spec.type);
    while (static_cast<int64_t>(digits.size()) < spec.precision) digits.insert(digits.begin(), '0');
    append_padded(out_, spec, sign_of(i < 0, spec.sign), ev_.text(digits, trusted).string(), '>', fill_trusted);
  }

  Value repr(const Value& v) {
    TextBuilder out(ev_.budget);
    ev_.append_repr(out, v);
    return out.finish();
  }

  Evaluator& ev_;
  const Value& format_;
  const Value& values_;
  TextBuilder out_;
  size_t next_ = 0;
};

// --- {}
// -----------------------------------------------------------------------------------------------------------------------

/// format(value, spec)
void append_formatted(Evaluator& ev, TextBuilder& out, const Value& value, std::string_view text, bool fill_trusted) {
  if (text.empty()) return ev.append_str(out, value);
  Spec spec;
  size_t i = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  size_t after_first = 0;
  utf8_next(text, &after_first);
  if (after_first < text.size() && is_align(text[after_first])) {
    spec.fill = std::string(text.substr(0, after_first));
    spec.align = text[after_first];
    i = after_first + 1;
  } else if (is_align(text[0])) {
    spec.align = text[0];
    i = 1;
  }
  bool zero = false;
  bool signed_spec = false;
  if (i < text.size() && (text[i] == '+' || text[i] == '-' || text[i] == ' '))
    spec.sign = text[i++], signed_spec = true;
  if (i < text.size() && text[i] == '#') spec.alternate = true, ++i;
  if (i < text.size() && text[i] == '0') zero = true, ++i;
  spec.width = read_number(text, &i);
  if (i < text.size() && (text[i] == ',' || text[i] == '_')) spec.grouping = text[i++];
  if (i < text.size() && text[i] == '.') {
    const size_t begin = ++i;
    spec.precision = read_number(text, &i);
    if (i == begin) raise_value_error("Format specifier missing precision");
  }
  if (i < text.size()) spec.type = text[i++];
  if (i < text.size()) raise_value_error("Invalid format specifier");
  if (zero && spec.align == '\0') spec.fill = "0", spec.align = '=';

  const auto bad_type = [&]() {
    raise_value_error(std::string("Unknown format code '") + spec.type + "' for object of type '" + type_name(value) +
                      "'");
  };
  if (value.is_string()) {
    if (spec.type != '\0' && spec.type != 's') bad_type();
    if (signed_spec || spec.grouping != '\0' || spec.alternate)
      raise_value_error("Sign, grouping and # are not allowed in string format specifier");
    if (spec.align == '=') {
      if (!zero) raise_value_error("'=' alignment not allowed in string format specifier");
      spec.align = '<';
    }
    Value s = value;
    if (spec.precision >= 0) s = ev.slice(s, Value::none(), Value::integer(spec.precision), Value::none());
    append_padded(out, spec, "", s.string(), '<', fill_trusted);
  } else if (value.is_integer()) {
    if (spec.type == '\0' || spec.type == 'n') spec.type = 'd';
    if (std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos) {
      append_float(ev, out, spec, value.as_real(), value.trusted(), fill_trusted);
    } else if (spec.type == 'c') {
      if (value.as_integer() < 0 || value.as_integer() > 0x10FFFF)
        raise("OverflowError", "%c arg not in range(0x110000)");
      std::string one;
      utf8_append(&one, static_cast<char32_t>(value.as_integer()));
      append_padded(out, spec, "", ev.text(one, value.trusted()).string(), '<', fill_trusted);
    } else {
      if (std::string_view("bdoxX").find(spec.type) == std::string_view::npos) bad_type();
      if (spec.precision >= 0) raise_value_error("Precision not allowed in integer format specifier");
      append_integer(ev, out, spec, value.as_integer(), value.trusted(), fill_trusted);
    }
  } else if (value.is(Kind::real)) {
    if (spec.type != '\0' && std::string_view("eEfFgGn%").find(spec.type) == std::string_view::npos) bad_type();
    append_float(ev, out, spec, value.as_real(), value.trusted(), fill_trusted);
  } else {
    raise_type_error("unsupported format string passed to " + type_name(value) + ".__format__");
  }
}

class BraceFormatter {
 public:
  BraceFormatter(Evaluator& ev, const Value& format, const std::vector<Value>& args, const Value& named)
      : ev_(ev), format_(format), args_(args), named_(named) {}

  /// Fills in `f`. Nested fields stand in format specifications only, as in Python.
  void run(const String& f, TextBuilder& out, int depth) {
    const std::string_view t = f.text;
    ev_.budget.spend(1 + t.size() / 16);
    size_t pos = 0;
    while (pos < t.size()) {
      const size_t at = t.find_first_of("{}", pos);
      if (at == std::string_view::npos) break;
      out.append(f, pos, at);
      if (at + 1 < t.size() && t[at + 1] == t[at]) {
        out.append(f, at, at + 1);
        pos = at + 2;
        continue;
      }
      if (t[at] == '}') raise_value_error("Single '}' encountered in format string");
      size_t end = at + 1;
      for (int open = 1; open > 0; ++end) {
        if (end >= t.size()) raise_value_error("expected '}' before end of string");
        open += t[end] == '{' ? 1 : t[end] == '}' ? -1 : 0;
      }
      field(f, at + 1, end - 1, out, depth);
      pos = end;
    }
    out.append(f, pos, t.size());
  }

 private:
  void field(const String& f, size_t begin, size_t end, TextBuilder& out, int depth) {
    if (depth > 1) raise_value_error("Max string recursion exceeded");
    const std::string_view t = f.text;
    size_t name_end = begin;
    while (name_end < end && t[name_end] != '!' && t[name_end] != ':') {
      if (t[name_end] == '[') name_end = std::min(t.find(']', name_end), end - 1);
      ++name_end;
    }
    char conversion = '\0';
    size_t spec_begin = name_end;
    if (spec_begin < end && t[spec_begin] == '!') {
      if (spec_begin + 1 >= end || (spec_begin + 2 < end && t[spec_begin + 2] != ':'))
        raise_value_error("expected ':' after conversion specifier");
      conversion = t[spec_begin + 1];
      spec_begin += 2;
    }
    if (spec_begin < end) ++spec_begin;  // the colon
    Value value = look_up(t.substr(begin, name_end - begin));
    TextBuilder spec(ev_.budget);
    if (spec_begin < end) run(substring(ev_.budget, Value::share(&f), spec_begin, end).string(), spec, depth + 1);
    if (conversion == 's')
      value = ev_.to_str(value);
    else if (conversion == 'r' || conversion == 'a')
      value = repr(value);
    else if (conversion != '\0')
      raise_value_error(std::string("Unknown conversion specifier ") + conversion);
    const std::string text(spec.text());
    if (format_.string().markup) {
      TextBuilder piece(ev_.budget);
      append_formatted(ev_, piece, value, text, f.all_trusted());
      const Value plain = piece.finish(value.is_string() && value.string().markup);
      out.append(escaped_for(ev_, format_, plain).string());
    } else {
      append_formatted(ev_, out, value, text, f.all_trusted());
    }
  }

  Value repr(const Value& v) {
    TextBuilder out(ev_.budget);
    ev_.append_repr(out, v);
    return out.finish();
  }

  /// "0.name[key]"
  Value look_up(std::string_view path) {
    size_t i = path.find_first_of(".[");
    if (i == std::string_view::npos) i = path.size();
    Value value = first(path.substr(0, i));
    while (i < path.size()) {
      ev_.budget.spend(1);
      if (path[i] == '.') {
        size_t end = path.find_first_of(".[", i + 1);
        if (end == std::string_view::npos) end = path.size();
        if (end == i + 1) raise_value_error("Empty attribute in format string");
        value = ev_.attribute(value, ev_.text(std::string(path.substr(i + 1, end - i - 1)), true).string());
        i = end;
      } else if (path[i] == '[') {
        const size_t end = path.find(']', i);
        if (end == std::string_view::npos || end == i + 1) raise_value_error("Missing ']' in format string");
        const std::string_view key = path.substr(i + 1, end - i - 1);
        int64_t index = 0;
        const bool digits = key.find_first_not_of("0123456789") == std::string_view::npos && parse_int(key, 10, &index);
        value = ev_.item(value, digits ? Value::integer(index) : ev_.text(std::string(key), true));
        i = end + 1;
      } else {
        raise_value_error("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Value first(std::string_view name) {
    int64_t index = 0;
    if (name.empty()) {
      if (numbering_ == Numbering::manual)
        raise_value_error("cannot switch from manual field specification to automatic field numbering");
      numbering_ = Numbering::automatic;
      index = next_++;
    } else if (name.find_first_not_of("0123456789") == std::string_view::npos) {
      if (numbering_ == Numbering::automatic)
        raise_value_error("cannot switch from automatic field numbering to manual field specification");
      numbering_ = Numbering::manual;
      parse_int(name, 10, &index);
    } else {
      const Value key = ev_.text(std::string(name), true);
      const Value* v = named_.dict().find(key);
      if (v == nullptr) raise("KeyError", "'" + std::string(name) + "'");
      return *v;
    }
    if (index >= static_cast<int64_t>(args_.size()))
      raise("IndexError", "Replacement index " + std::to_string(index) + " out of range for positional args tuple");
    return args_[static_cast<size_t>(index)];
  }

  enum class Numbering { none, automatic, manual };
  Evaluator& ev_;
  const Value& format_;
  const std::vector<Value>& args_;
  const Value& named_;
  Numbering numbering_ = Numbering::none;
  int64_t next_ = 0;
};

}  // namespace

Value format_percent(Evaluator& ev, const Value& format, const Value& values) {
  return PercentFormatter(ev, format, values).run();
}

Value format_braces(Evaluator& ev, const Value& format, const std::vector<Value>& args, const Value& named) {
  TextBuilder out(ev.budget);
  BraceFormatter(ev, format, args, named).run(format.string(), out, 0);
  return out.finish(format.string().markup);
}

}  // namespace engine::jinja
