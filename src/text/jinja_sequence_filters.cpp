// Filters over sequences and dicts.
#include <algorithm>
#include <chrono>
#include <memory>
#include <unordered_set>

#include "base/error.h"
#include "text/jinja_strings.h"

namespace engine::jinja {

namespace {

bool given(const Value& v) { return !v.is_missing(); }
bool flag(Evaluator& ev, const Value& v, bool otherwise = false) { return given(v) ? ev.truthy(v) : otherwise; }

/// "address.city" or 0: a way into an item, through attributes and indices.
class AttributePath {
 public:
  AttributePath() = default;
  AttributePath(Evaluator& ev, const Value& path) {
    if (path.is_missing() || path.is_none()) return;
    if (!path.is_string()) {
      parts_.push_back(path);
      return;
    }
    for (const Value& part : split(ev, path, ev.text(".", true), -1, false)) {
      int64_t index = 0;
      const std::string_view t = part.string().text;
      const bool digits = !t.empty() && t.find_first_not_of("0123456789") == std::string_view::npos;
      parts_.push_back(digits && parse_int(t, 10, &index) ? Value::integer(index) : part);
    }
  }
  Value get(Evaluator& ev, Value item, const Value& otherwise = Value()) const {
    for (const Value& part : parts_) {
      ev.budget.spend(1);
      item = ev.item(item, part);
      if (item.is_undefined() && !otherwise.is_missing() && !otherwise.is_none()) item = otherwise;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

Value fold_case(Evaluator& ev, const Value& v) { return v.is_string() ? map_case(ev, v, CaseMap::lower) : v; }

struct Keyed {
  Value key, item;
};

/// Python's sorted(): stable; `reverse` keeps the order of equals too.
void sort_keyed(Evaluator& ev, std::vector<Keyed>& items, bool reverse) {
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? ev.less(b.key, a.key) : ev.less(a.key, b.key);
  });
}

Value items_of(Evaluator& ev, std::vector<Keyed>& keyed) {
  std::vector<Value> out;
  out.reserve(keyed.size());
  for (Keyed& k : keyed) out.push_back(std::move(k.item));
  return ev.list(std::move(out));
}

// --- picking and ordering
// -----------------------------------------------------------------------------------------------------

Value first(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  Iter iter(ev, v);
  Value item;
  return iter.next(ev, &item) ? item : ev.undefined_hint("No first item, sequence was empty.");
}

/// What Python's reversed() takes; raises TypeError for the rest.
std::vector<Value> reversed_items(Evaluator& ev, const Value& v) {
  if (v.is(Kind::iterator)) raise_type_error("'" + type_name(v) + "' object is not reversible");
  std::vector<Value> items = ev.items(v);
  std::reverse(items.begin(), items.end());
  return items;
}

Value last(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  if (v.is_sequence() && !v.list().items.empty()) return v.list().items.back();
  std::vector<Value> items = reversed_items(ev, v);
  return items.empty() ? ev.undefined_hint("No last item, sequence was empty.") : items.front();
}

Value iterate(Evaluator& ev, const char* type, std::vector<Value> items) {
  auto shared = std::make_shared<std::pair<Value, size_t>>(ev.list(std::move(items)), 0);
  return ev.generator(type, [shared](Evaluator&, Value* out) {
    const auto& from = shared->first.list().items;
    if (shared->second >= from.size()) return false;
    *out = from[shared->second++];
    return true;
  });
}

Value reverse(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  if (v.is_string()) return ev.slice(v, Value::none(), Value::none(), Value::integer(-1));
  if (!ev.is_iterable(v)) raise("FilterArgumentError", "argument must be iterable");
  std::vector<Value> items = ev.items(v);
  std::reverse(items.begin(), items.end());
  if (v.is(Kind::iterator)) return ev.list(std::move(items));
  return iterate(ev, v.is(Kind::list) ? "list_reverseiterator" : "reversed", std::move(items));
}

Value list_filter(Evaluator& ev, const Value& v, const Value*, CallArgs&) { return ev.list(ev.items(v)); }

Value random_filter(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  const int64_t n = ev.length(v);
  if (v.is(Kind::dict) || v.is(Kind::view)) raise("KeyError", "a " + type_name(v) + " has no order to choose from");
  if (n == 0) return ev.undefined_hint("No random item, sequence was empty.");
  const auto now = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  return ev.item(v,
                 Value::integer(static_cast<int64_t>((now * 0x9E3779B97F4A7C15ull >> 33) % static_cast<uint64_t>(n))));
}

Value sort(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  std::vector<AttributePath> paths;
  if (given(p[2]) && p[2].is_string()) {
    for (const Value& path : split(ev, p[2], ev.text(",", true), -1, false)) paths.emplace_back(ev, path);
  } else {
    paths.emplace_back(ev, p[2]);
  }
  const bool fold = !flag(ev, p[1]);
  std::vector<Keyed> keyed;
  for (Value& item : ev.items(v)) {
    std::vector<Value> key;
    for (const AttributePath& path : paths) {
      const Value part = path.get(ev, item);
      key.push_back(fold ? fold_case(ev, part) : part);
    }
    keyed.push_back({ev.list(std::move(key)), std::move(item)});
  }
  sort_keyed(ev, keyed, flag(ev, p[0]));
  return items_of(ev, keyed);
}

Value dict_sort(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is(Kind::dict)) raise_type_error("'" + type_name(v) + "' object has no attribute 'items'");
  const bool fold = !flag(ev, p[0]);
  const std::string by = given(p[1]) ? ev.plain(p[1]) : "key";
  if (by != "key" && by != "value") raise("FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
  std::vector<Keyed> keyed;
  for (const DictEntry& e : v.dict().entries) {
    const Value& key = by == "key" ? e.key : e.value;
    keyed.push_back({fold ? fold_case(ev, key) : key, ev.tuple({e.key, e.value})});
  }
  sort_keyed(ev, keyed, flag(ev, p[2]));
  return items_of(ev, keyed);
}

Value least_or_most(Evaluator& ev, const Value& v, const Value* p, bool most) {
  const AttributePath path(ev, p[1]);
  const bool fold = !flag(ev, p[0]);
  Iter iter(ev, v);
  Value item, best, best_key;
  while (iter.next(ev, &item)) {
    ev.budget.spend(1);
    Value key = path.get(ev, item);
    if (fold) key = fold_case(ev, key);
    if (best.is_missing() || (most ? ev.less(best_key, key) : ev.less(key, best_key))) {
      best = item;
      best_key = std::move(key);
    }
  }
  return best.is_missing() ? ev.undefined_hint("No aggregated item, sequence was empty.") : best;
}

Value minimum(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return least_or_most(ev, v, p, false); }
Value maximum(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return least_or_most(ev, v, p, true); }

Value sum(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const AttributePath path(ev, p[0]);
  Value total = given(p[1]) ? p[1] : Value::integer(0);
  if (total.is_string()) raise_type_error("sum() can't sum strings [use ''.join(seq) instead]");
  Iter iter(ev, v);
  Value item;
  while (iter.next(ev, &item)) {
    ev.budget.spend(1);
    total = ev.binary(ExprType::add, total, path.get(ev, item));
  }
  return total;
}

Value join(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const AttributePath path(ev, p[1]);
  const Value separator = given(p[0]) ? ev.to_str(p[0]) : Value();
  TextBuilder out(ev.budget);
  Iter iter(ev, v);
  Value item;
  for (bool first_item = true; iter.next(ev, &item); first_item = false) {
    ev.budget.spend(1);
    if (!first_item && !separator.is_missing()) out.append(separator.string());
    ev.append_str(out, path.get(ev, item));
  }
  return out.finish();
}

// --- lazy ones
// ----------------------------------------------------------------------------------------------------------------

struct LazyState {
  std::unique_ptr<Iter> iter;
  Value source;
  AttributePath path;
  Value name, otherwise;
  CallArgs args;
  bool by_path = false;
  bool wanted = true;
  bool fold = false;
  Value seen;  // a dict, for unique

  /// Python calls iter() when the first item is asked for.
  bool next(Evaluator& ev, Value* item) {
    if (iter == nullptr) iter = std::make_unique<Iter>(ev, source);
    return iter->next(ev, item);
  }
  CallArgs copy_args() const { return args; }
};

Value map(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  auto state = std::make_shared<LazyState>();
  state->source = v;
  if (args.positional.empty()) {
    for (auto& [key, value] : args.named) {
      const std::string_view name = key.string().text;
      if (name == "attribute") {
        state->path = AttributePath(ev, value);
        state->by_path = true;
      } else if (name == "default") {
        state->otherwise = value;
      } else {
        raise("FilterArgumentError", "Unexpected keyword argument '" + std::string(name) + "'");
      }
    }
    if (!state->by_path) raise("FilterArgumentError", "map requires a filter argument");
  } else {
    state->name = args.positional[0];
    state->args.positional.assign(args.positional.begin() + 1, args.positional.end());
    state->args.named = std::move(args.named);
  }
  return ev.generator("generator", [state](Evaluator& e, Value* out) {
    if (state->iter == nullptr && !e.truthy(state->source)) return false;
    Value item;
    if (!state->next(e, &item)) return false;
    CallArgs copy = state->copy_args();
    *out = state->by_path ? state->path.get(e, item, state->otherwise) : e.call_filter(state->name, item, copy);
    return true;
  });
}

Value select_by(Evaluator& ev, const Value& v, CallArgs& args, bool by_attribute, bool wanted) {
  auto state = std::make_shared<LazyState>();
  state->source = v;
  state->wanted = wanted;
  size_t used = 0;
  if (by_attribute) {
    if (args.positional.empty()) raise("FilterArgumentError", "Missing parameter for attribute name");
    state->path = AttributePath(ev, args.positional[used++]);
  }
  if (used < args.positional.size()) state->name = args.positional[used++];
  state->args.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(used), args.positional.end());
  state->args.named = std::move(args.named);
  return ev.generator("generator", [state](Evaluator& e, Value* out) {
    if (state->iter == nullptr && !e.truthy(state->source)) return false;
    Value item;
    while (state->next(e, &item)) {
      e.budget.spend(1);
      CallArgs copy = state->copy_args();
      const Value tested = state->path.get(e, item);
      const bool yes = state->name.is_missing() ? e.truthy(tested) : e.call_test(state->name, tested, copy);
      if (yes == state->wanted) {
        *out = std::move(item);
        return true;
      }
    }
    return false;
  });
}

Value select(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return select_by(ev, v, args, false, true);
}
Value reject(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return select_by(ev, v, args, false, false);
}
Value select_attribute(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return select_by(ev, v, args, true, true);
}
Value reject_attribute(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return select_by(ev, v, args, true, false);
}

Value unique(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  auto state = std::make_shared<LazyState>();
  state->source = v;
  state->fold = !flag(ev, p[0]);
  state->path = AttributePath(ev, p[1]);
  state->seen = Value::adopt(ev.new_dict());
  return ev.generator("generator", [state](Evaluator& e, Value* out) {
    Value item;
    while (state->next(e, &item)) {
      e.budget.spend(1);
      Value key = state->path.get(e, item);
      if (state->fold) key = fold_case(e, key);
      Dict& seen = state->seen.as<Dict>();
      const size_t before = seen.entries.size();
      if (!seen.set(key, Value::none())) raise_type_error("unhashable type: '" + type_name(key) + "'");
      if (seen.entries.size() == before) continue;
      *out = std::move(item);
      return true;
    }
    return false;
  });
}

Value items_filter(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  if (v.is_undefined()) return iterate(ev, "generator", {});
  if (!v.is(Kind::dict)) raise_type_error("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const DictEntry& e : v.dict().entries) pairs.push_back(ev.tuple({e.key, e.value}));
  return iterate(ev, "generator", std::move(pairs));
}

// --- grouping
// -----------------------------------------------------------------------------------------------------------------

Value batch(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const int64_t size = ev.index_argument(p[0]);
  std::vector<Value> batches;
  std::vector<Value> row;
  for (Value& item : ev.items(v)) {
    if (static_cast<int64_t>(row.size()) == size) {
      batches.push_back(ev.list(std::move(row)));
      row = {};
    }
    row.push_back(std::move(item));
  }
  if (!row.empty()) {
    const bool fill = given(p[1]) && !p[1].is_none();
    while (fill && static_cast<int64_t>(row.size()) < size) {
      ev.budget.spend(1);
      ev.budget.check_items(row.size());
      row.push_back(p[1]);
    }
    batches.push_back(ev.list(std::move(row)));
  }
  return iterate(ev, "generator", std::move(batches));
}

Value slice_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const std::vector<Value> items = ev.items(v);
  const int64_t n = ev.index_argument(p[0]);
  if (n == 0) raise("ZeroDivisionError", "integer division or modulo by zero");
  const auto length = static_cast<int64_t>(items.size());
  const int64_t each = n > 0 ? length / n : 0;
  const int64_t extra = n > 0 ? length % n : 0;
  std::vector<Value> slices;
  int64_t begin = 0;
  for (int64_t i = 0; i < n; ++i) {
    ev.budget.spend(1);
    ev.budget.check_items(slices.size());
    const int64_t end = begin + each + (i < extra ? 1 : 0);
    std::vector<Value> part(items.begin() + begin, items.begin() + end);
    if (given(p[1]) && !p[1].is_none() && i >= extra) part.push_back(p[1]);
    slices.push_back(ev.list(std::move(part)));
    begin = end;
  }
  return iterate(ev, "generator", std::move(slices));
}

Value group_by(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const AttributePath path(ev, p[0]);
  const bool fold = !flag(ev, p[2]);
  std::vector<Keyed> keyed;
  for (Value& item : ev.items(v)) {
    Value key = path.get(ev, item, p[1]);
    keyed.push_back({fold ? fold_case(ev, key) : key, std::move(item)});
  }
  sort_keyed(ev, keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size();) {
    std::vector<Value> members;
    const size_t begin = i;
    while (i < keyed.size() && ev.equal(keyed[i].key, keyed[begin].key)) members.push_back(keyed[i++].item);
    const Value grouper = fold ? path.get(ev, members[0], p[1]) : keyed[begin].key;
    Value group = ev.tuple({grouper, ev.list(std::move(members))});
    group.as<List>().grouped = true;
    groups.push_back(std::move(group));
  }
  return ev.list(std::move(groups));
}

Value attribute_filter(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  // Attributes proper only: no fall back to items, so a dict's keys are not found.
  const Value name = ev.to_str(p[0]);
  if (v.is(Kind::dict) && find_method(Kind::dict, name.string().text) == nullptr)
    return Value::undefined(UndefinedWhy::attribute, &name.string(), Kind::dict);
  return ev.attribute(v, name.string());
}

// --- pprint
// -------------------------------------------------------------------------------------------------------------------

/// Python's pprint: on one line if it fits 80 columns, else one item a line. Dicts are sorted by key.
class PrettyPrinter {
 public:
  PrettyPrinter(Evaluator& ev, TextBuilder& out) : ev_(ev), out_(out) {}

  void print(const Value& v, size_t column, size_t after, int depth) {
    if (depth > max_nesting) raise_too_nested();
    TextBuilder flat(ev_.budget);
    ev_.append_repr(flat, sorted(v, depth));
    const Value line = flat.finish();
    const bool container = v.is(Kind::list) || v.is(Kind::tuple) || v.is(Kind::dict);
    if (!container || ev_.length(v) == 0 || column + line.string().length() + after <= width) {
      out_.append(line.string());
    } else if (v.is(Kind::dict)) {
      print_dict(sorted(v, depth).dict(), column, after, depth);
    } else {
      print_list(v, column, after, depth);
    }
  }

 private:
  static constexpr size_t width = 80;

  Value sorted(const Value& v, int depth) {
    ev_.budget.spend(1);
    if (depth > max_nesting) raise_too_nested();
    if (v.is_sequence()) {
      std::vector<Value> items;
      for (const Value& item : v.list().items) items.push_back(sorted(item, depth + 1));
      return v.is(Kind::list) ? ev_.list(std::move(items)) : ev_.tuple(std::move(items));
    }
    if (!v.is(Kind::dict)) return v;
    std::vector<Keyed> entries;
    for (const DictEntry& e : v.dict().entries) entries.push_back({e.key, sorted(e.value, depth + 1)});
    sort_keyed(ev_, entries, false);
    Dict* dict = ev_.new_dict();
    Value out = Value::adopt(dict);
    for (Keyed& e : entries) dict->set(e.key, std::move(e.item));
    return out;
  }

  void new_line(size_t column) {
    out_.append(",\n", false);
    out_.append_repeated(" ", column, false);
  }

  void print_list(const Value& v, size_t column, size_t after, int depth) {
    const auto& items = v.list().items;
    out_.append(v.is(Kind::list) ? "[" : "(", false);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) new_line(column + 1);
      print(items[i], column + 1, i + 1 == items.size() ? after + 1 : 1, depth + 1);
    }
    out_.append(v.is(Kind::list) ? "]" : items.size() == 1 ? ",)" : ")", false);
  }

  void print_dict(const Dict& dict, size_t column, size_t after, int depth) {
    out_.append("{", false);
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) new_line(column + 1);
      TextBuilder key(ev_.budget);
      ev_.append_repr(key, dict.entries[i].key);
      const Value text = key.finish();
      out_.append(text.string());
      out_.append(": ", false);
      print(dict.entries[i].value, column + 3 + text.string().length(), i + 1 == dict.entries.size() ? after + 1 : 1,
            depth + 1);
    }
    out_.append("}", false);
  }

  Evaluator& ev_;
  TextBuilder& out_;
};

Value pretty_print(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  TextBuilder out(ev.budget);
  PrettyPrinter(ev, out).print(v, 0, 0, 0);
  return out.finish();
}

}  // namespace

const Builtin sequence_filters[] = {
    {"attr", attribute_filter, 1, {"name"}},
    {"batch", batch, 1, {"linecount", "fill_with"}},
    {"dictsort", dict_sort, 0, {"case_sensitive", "by", "reverse"}},
    {"first", first},
    {"groupby", group_by, 1, {"attribute", "default", "case_sensitive"}},
    {"items", items_filter},
    {"join", join, 0, {"d", "attribute"}},
    {"last", last},
    {"list", list_filter},
    {"map", map, 0, {}, Binding::variadic},
    {"max", maximum, 0, {"case_sensitive", "attribute"}},
    {"min", minimum, 0, {"case_sensitive", "attribute"}},
    {"pprint", pretty_print},
    {"random", random_filter},
    {"reject", reject, 0, {}, Binding::variadic},
    {"rejectattr", reject_attribute, 0, {}, Binding::variadic},
    {"reverse", reverse},
    {"select", select, 0, {}, Binding::variadic},
    {"selectattr", select_attribute, 0, {}, Binding::variadic},
    {"slice", slice_filter, 1, {"slices", "fill_with"}},
    {"sort", sort, 0, {"reverse", "case_sensitive", "attribute"}},
    {"sum", sum, 0, {"attribute", "start"}},
    {"unique", unique, 0, {"case_sensitive", "attribute"}},
};
const size_t n_sequence_filters = std::size(sequence_filters);

}  // namespace engine::jinja
