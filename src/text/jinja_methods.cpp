// Methods of str.
#include <algorithm>

#include "base/error.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

namespace {

bool given(const Value& v) { return !v.is_missing(); }
bool flag(Evaluator& ev, const Value& v) { return given(v) && ev.truthy(v); }

const Value& need_string(const Value& v, std::string_view method) {
  if (!v.is_string()) raise_type_error(std::string(method) + "() argument must be str, not " + type_name(v));
  return v;
}

Value upper(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return map_case(ev, s, CaseMap::upper); }
Value lower(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return map_case(ev, s, CaseMap::lower); }
Value title(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return map_case(ev, s, CaseMap::title); }
Value capitalize(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  return map_case(ev, s, CaseMap::capitalize);
}
Value swapcase(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return map_case(ev, s, CaseMap::swapcase); }
Value casefold(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return map_case(ev, s, CaseMap::fold); }

Value strip_both(Evaluator& ev, const Value& s, const Value* p, CallArgs&) { return strip(ev, s, p[0], true, true); }
Value lstrip(Evaluator& ev, const Value& s, const Value* p, CallArgs&) { return strip(ev, s, p[0], true, false); }
Value rstrip(Evaluator& ev, const Value& s, const Value* p, CallArgs&) { return strip(ev, s, p[0], false, true); }

Value split_left(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return ev.list(split(ev, s, p[0], given(p[1]) ? ev.index_argument(p[1]) : -1, false));
}
Value split_right(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return ev.list(split(ev, s, p[0], given(p[1]) ? ev.index_argument(p[1]) : -1, true));
}
Value splitlines(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return ev.list(split_lines(ev, s, flag(ev, p[0])));
}

Value replace_method(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return replace(ev, s, escaped_for(ev, s, p[0]), escaped_for(ev, s, p[1]), given(p[2]) ? ev.index_argument(p[2]) : -1);
}

Value cut(Evaluator& ev, const Value& s, size_t at, size_t length, bool found, bool from_right) {
  const size_t n = s.string().text.size();
  const Value empty = ev.text("", true);
  if (!found) return from_right ? ev.tuple({empty, empty, s}) : ev.tuple({s, empty, empty});
  return ev.tuple({substring(ev.budget, s, 0, at), substring(ev.budget, s, at, at + length),
                   substring(ev.budget, s, at + length, n)});
}
Value partition(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view what = need_string(p[0], "partition").string().text;
  if (what.empty()) raise_value_error("empty separator");
  ev.budget.spend(s.string().text.size() / 64);
  const size_t at = find_text(s.string().text, what);
  return cut(ev, s, at, what.size(), at != std::string_view::npos, false);
}
Value rpartition(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view what = need_string(p[0], "rpartition").string().text;
  if (what.empty()) raise_value_error("empty separator");
  ev.budget.spend(s.string().text.size() / 64);
  const size_t at = rfind_text(s.string().text, what);
  return cut(ev, s, at, what.size(), at != std::string_view::npos, true);
}

Value remove_prefix(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view what = need_string(p[0], "removeprefix").string().text;
  return s.string().text.starts_with(what) ? substring(ev.budget, s, what.size(), s.string().text.size()) : s;
}
Value remove_suffix(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view what = need_string(p[0], "removesuffix").string().text;
  return s.string().text.ends_with(what) ? substring(ev.budget, s, 0, s.string().text.size() - what.size()) : s;
}

/// The stretch that optional start and end arguments select, in bytes; false if start is past the end.
bool select_range(Evaluator& ev, const Value& s, const Value& start, const Value& end, size_t* begin, size_t* stop) {
  const auto n = static_cast<int64_t>(s.string().length());
  const auto clip = [&](const Value& v, int64_t otherwise) {
    if (!given(v) || v.is_none()) return otherwise;
    int64_t i = ev.index_argument(v);
    if (i < 0) i = std::max<int64_t>(i < -n ? 0 : i + n, 0);
    return i;
  };
  const int64_t from = clip(start, 0);
  const int64_t to = std::min(clip(end, n), n);
  if (from > n || from > to) return false;
  *begin = utf8_offset(s.string().text, static_cast<size_t>(from));
  *stop = utf8_offset(s.string().text, static_cast<size_t>(to));
  return true;
}

Value has_affix(Evaluator& ev, const Value& s, const Value* p, bool prefix) {
  const std::string_view name = prefix ? "startswith" : "endswith";
  size_t begin = 0, stop = 0;
  const bool in_range = select_range(ev, s, p[1], p[2], &begin, &stop);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string())
      raise_type_error(std::string(name) + " first arg must be str or a tuple of str, not " + type_name(affix));
    if (!in_range) return false;
    const std::string_view t = s.string().text.substr(begin, stop - begin);
    return prefix ? t.starts_with(affix.string().text) : t.ends_with(affix.string().text);
  };
  if (!p[0].is(Kind::tuple)) return Value::boolean(matches(p[0]));
  for (const Value& affix : p[0].list().items) {
    if (matches(affix)) return Value::boolean(true);
  }
  return Value::boolean(false);
}
Value startswith(Evaluator& ev, const Value& s, const Value* p, CallArgs&) { return has_affix(ev, s, p, true); }
Value endswith(Evaluator& ev, const Value& s, const Value* p, CallArgs&) { return has_affix(ev, s, p, false); }

int64_t find_index(Evaluator& ev, const Value& s, const Value* p, bool from_right) {
  const std::string_view what = need_string(p[0], "find").string().text;
  size_t begin = 0, stop = 0;
  if (!select_range(ev, s, p[1], p[2], &begin, &stop)) return -1;
  ev.budget.spend(s.string().text.size() / 64);
  const std::string_view t = s.string().text.substr(begin, stop - begin);
  const size_t at = from_right ? rfind_text(t, what) : find_text(t, what);
  return at == std::string_view::npos ? -1 : static_cast<int64_t>(utf8_length(s.string().text.substr(0, begin + at)));
}
int64_t found(int64_t index) {
  if (index < 0) raise_value_error("substring not found");
  return index;
}
Value find(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return Value::integer(find_index(ev, s, p, false));
}
Value rfind(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return Value::integer(find_index(ev, s, p, true));
}
Value index(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return Value::integer(found(find_index(ev, s, p, false)));
}
Value rindex(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return Value::integer(found(find_index(ev, s, p, true)));
}

Value count(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view what = need_string(p[0], "count").string().text;
  size_t begin = 0, stop = 0;
  if (!select_range(ev, s, p[1], p[2], &begin, &stop)) return Value::integer(0);
  const std::string_view t = s.string().text.substr(begin, stop - begin);
  ev.budget.spend(t.size() / 16);
  if (what.empty()) return Value::integer(static_cast<int64_t>(utf8_length(t)) + 1);
  int64_t n = 0;
  for (size_t at = find_text(t, what); at != std::string_view::npos; at = find_text(t, what, at + what.size())) ++n;
  return Value::integer(n);
}

Value join(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  TextBuilder out(ev.budget);
  Iter iter(ev, p[0]);
  Value item;
  for (int64_t i = 0; iter.next(ev, &item); ++i) {
    ev.budget.spend(1);
    if (s.string().markup && !item.is_string()) item = ev.to_str(item);
    if (!item.is_string())
      raise_type_error("sequence item " + std::to_string(i) + ": expected str instance, " + type_name(item) + " found");
    if (i > 0) out.append(s.string());
    out.append(escaped_for(ev, s, item).string());
  }
  return out.finish(s.string().markup);
}

Value ljust(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return pad(ev, s, ev.index_argument(p[0]), p[1], false, true);
}
Value rjust(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return pad(ev, s, ev.index_argument(p[0]), p[1], true, false);
}
Value center(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  return pad(ev, s, ev.index_argument(p[0]), p[1], true, true);
}

Value zfill(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const int64_t missing = ev.index_argument(p[0]) - ev.length(s);
  if (missing <= 0) return s;
  const std::string_view t = s.string().text;
  const size_t sign = !t.empty() && (t[0] == '-' || t[0] == '+') ? 1 : 0;
  ev.budget.spend(static_cast<uint64_t>(missing));
  TextBuilder out(ev.budget);
  out.append(s.string(), 0, sign);
  out.append_repeated("0", static_cast<size_t>(missing), s.string().all_trusted());
  out.append(s.string(), sign, t.size());
  return out.finish(s.string().markup);
}

Value expandtabs(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const int64_t size = given(p[0]) ? ev.index_argument(p[0]) : 8;
  const std::string_view t = s.string().text;
  ev.budget.spend(t.size() / 8);
  TrustCursor trust(s.string());
  TextBuilder out(ev.budget);
  int64_t column = 0;
  for (size_t pos = 0; pos < t.size();) {
    const size_t at = pos;
    const char32_t c = utf8_next(t, &pos);
    if (c == '\t') {
      const int64_t n = size > 0 ? size - column % size : 0;
      ev.budget.spend(static_cast<uint64_t>(n));
      out.append_repeated(" ", static_cast<size_t>(n), trust.at(at));
      column += n;
      continue;
    }
    column = c == '\n' || c == '\r' ? 0 : column + 1;
    out.append(s.string(), at, pos);
  }
  return out.finish(s.string().markup);
}

Value translate(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string_view t = s.string().text;
  if (!p[0].is(Kind::dict)) raise_type_error("'" + type_name(p[0]) + "' object is not a translation table");
  ev.budget.spend(t.size() / 2);
  TrustCursor trust(s.string());
  TextBuilder out(ev.budget);
  for (size_t pos = 0; pos < t.size();) {
    const size_t at = pos;
    const Value* to = p[0].dict().find(Value::integer(static_cast<int64_t>(utf8_next(t, &pos))));
    if (to == nullptr) {
      out.append(s.string(), at, pos);
    } else if (to->is_string()) {
      out.append(to->string());
    } else if (!to->is_none()) {
      const int64_t c = ev.index_argument(*to);
      if (c < 0 || c > 0x10FFFF) raise_value_error("character mapping must be in range(0x110000)");
      std::string one;
      utf8_append(&one, static_cast<char32_t>(c));
      out.append(one, to->trusted());
    }
  }
  return out.finish(s.string().markup);
}

Value encode(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  const std::string name = given(p[0]) ? ev.plain(p[0]) : "utf-8";
  if (name != "utf-8" && name != "utf8" && name != "UTF-8" && name != "ascii")
    raise("LookupError", "unknown encoding: " + name);
  return Value::adopt(new Bytes(&ev.budget, std::string(s.string().text), s.string().all_trusted()));
}

Value format(Evaluator& ev, const Value& s, const Value*, CallArgs& args) {
  Dict* dict = ev.new_dict();
  const Value named = Value::adopt(dict);
  for (auto& [key, value] : args.named) dict->set(key, std::move(value));
  return format_braces(ev, s, args.positional, named);
}

Value format_map(Evaluator& ev, const Value& s, const Value* p, CallArgs&) {
  if (!p[0].is(Kind::dict)) raise_type_error("format_map() takes a dict");
  return format_braces(ev, s, {}, p[0]);
}

// --- questions
// ----------------------------------------------------------------------------------------------------------------

template <class F>
Value all_chars(Evaluator& ev, const Value& s, bool of_empty, F&& test) {
  const std::string_view t = s.string().text;
  ev.budget.spend(t.size() / 16);
  if (t.empty()) return Value::boolean(of_empty);
  for (size_t pos = 0; pos < t.size();) {
    if (!test(utf8_next(t, &pos))) return Value::boolean(false);
  }
  return Value::boolean(true);
}

Value isalnum(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  return all_chars(ev, s, false, [](char32_t c) { return is_alpha(c) || is_numeric(c); });
}
Value isalpha(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return all_chars(ev, s, false, is_alpha); }
Value isascii(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  return all_chars(ev, s, true, [](char32_t c) { return c < 0x80; });
}
Value isdecimal(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return all_chars(ev, s, false, is_decimal); }
Value isdigit(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return all_chars(ev, s, false, is_digit); }
Value isnumeric(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return all_chars(ev, s, false, is_numeric); }
Value isprintable(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  return all_chars(ev, s, true, is_printable);
}
Value isspace(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return all_chars(ev, s, false, is_space); }
Value isidentifier(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  bool first = true;
  return all_chars(ev, s, false, [&](char32_t c) {
    const bool ok = first ? is_identifier_start(c) : is_identifier_part(c);
    first = false;
    return ok;
  });
}

/// At least one cased character, and none of the other case.
Value one_case(Evaluator& ev, const Value& s, bool want_upper) {
  bool any = false;
  const Value ok = all_chars(ev, s, false, [&](char32_t c) {
    any |= want_upper ? is_upper(c) : is_lower(c);
    return !is_title(c) && !(want_upper ? is_lower(c) : is_upper(c));
  });
  return Value::boolean(any && ok.as_bool());
}
Value islower(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return one_case(ev, s, false); }
Value isupper(Evaluator& ev, const Value& s, const Value*, CallArgs&) { return one_case(ev, s, true); }

Value istitle(Evaluator& ev, const Value& s, const Value*, CallArgs&) {
  bool after_cased = false;
  bool any = false;
  const Value ok = all_chars(ev, s, false, [&](char32_t c) {
    const bool starts = is_upper(c) || is_title(c);
    if (starts ? after_cased : is_lower(c) && !after_cased) return false;
    after_cased = is_cased(c);
    any |= after_cased;
    return true;
  });
  return Value::boolean(any && ok.as_bool());
}

}  // namespace

const Builtin string_methods[] = {
    {"capitalize", capitalize, 0, {}, Binding::positional},
    {"casefold", casefold, 0, {}, Binding::positional},
    {"center", center, 1, {"width", "fillchar"}, Binding::positional},
    {"count", count, 1, {"sub", "start", "end"}, Binding::positional},
    {"encode", encode, 0, {"encoding", "errors"}},
    {"endswith", endswith, 1, {"suffix", "start", "end"}, Binding::positional},
    {"expandtabs", expandtabs, 0, {"tabsize"}},
    {"find", find, 1, {"sub", "start", "end"}, Binding::positional},
    {"format", format, 0, {}, Binding::variadic},
    {"format_map", format_map, 1, {"mapping"}, Binding::positional},
    {"index", index, 1, {"sub", "start", "end"}, Binding::positional},
    {"isalnum", isalnum, 0, {}, Binding::positional},
    {"isalpha", isalpha, 0, {}, Binding::positional},
    {"isascii", isascii, 0, {}, Binding::positional},
    {"isdecimal", isdecimal, 0, {}, Binding::positional},
    {"isdigit", isdigit, 0, {}, Binding::positional},
    {"isidentifier", isidentifier, 0, {}, Binding::positional},
    {"islower", islower, 0, {}, Binding::positional},
    {"isnumeric", isnumeric, 0, {}, Binding::positional},
    {"isprintable", isprintable, 0, {}, Binding::positional},
    {"isspace", isspace, 0, {}, Binding::positional},
    {"istitle", istitle, 0, {}, Binding::positional},
    {"isupper", isupper, 0, {}, Binding::positional},
    {"join", join, 1, {"iterable"}, Binding::positional},
    {"ljust", ljust, 1, {"width", "fillchar"}, Binding::positional},
    {"lower", lower, 0, {}, Binding::positional},
    {"lstrip", lstrip, 0, {"chars"}, Binding::positional},
    {"partition", partition, 1, {"sep"}, Binding::positional},
    {"removeprefix", remove_prefix, 1, {"prefix"}, Binding::positional},
    {"removesuffix", remove_suffix, 1, {"suffix"}, Binding::positional},
    {"replace", replace_method, 2, {"old", "new", "count"}, Binding::positional},
    {"rfind", rfind, 1, {"sub", "start", "end"}, Binding::positional},
    {"rindex", rindex, 1, {"sub", "start", "end"}, Binding::positional},
    {"rjust", rjust, 1, {"width", "fillchar"}, Binding::positional},
    {"rpartition", rpartition, 1, {"sep"}, Binding::positional},
    {"rsplit", split_right, 0, {"sep", "maxsplit"}},
    {"rstrip", rstrip, 0, {"chars"}, Binding::positional},
    {"split", split_left, 0, {"sep", "maxsplit"}},
    {"splitlines", splitlines, 0, {"keepends"}},
    {"startswith", startswith, 1, {"prefix", "start", "end"}, Binding::positional},
    {"strip", strip_both, 0, {"chars"}, Binding::positional},
    {"swapcase", swapcase, 0, {}, Binding::positional},
    {"title", title, 0, {}, Binding::positional},
    {"translate", translate, 1, {"table"}, Binding::positional},
    {"upper", upper, 0, {}, Binding::positional},
    {"zfill", zfill, 1, {"width"}, Binding::positional},
};
const size_t n_string_methods = std::size(string_methods);

}  // namespace engine::jinja
