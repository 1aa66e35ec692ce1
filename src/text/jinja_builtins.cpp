// Tests, global functions, methods of the other types, and the look-up of all of them by name.
#include "text/jinja_builtins.h"

#include <bit>
#include <cmath>

#include "base/error.h"
#include "text/jinja_strings.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

namespace {

bool given(const Value& v) { return !v.is_missing(); }

// --- tests
// --------------------------------------------------------------------------------------------------------------------

Value yes(bool b) { return Value::boolean(b); }

Value is_defined(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(!v.is_undefined()); }
Value is_undefined(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is_undefined()); }
Value is_none(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is_none()); }
Value is_boolean(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is(Kind::boolean)); }
Value is_true(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is(Kind::boolean) && v.as_bool()); }
Value is_false(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is(Kind::boolean) && !v.as_bool()); }
Value is_integer(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(v.is(Kind::integer) || v.is(Kind::big_uint));
}
Value is_float(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is(Kind::real)); }
Value is_number(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(v.is_number() || v.is(Kind::big_uint));
}
Value is_string(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is_string()); }
Value is_mapping(Evaluator&, const Value& v, const Value*, CallArgs&) { return yes(v.is(Kind::dict)); }
Value is_iterable(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return yes(ev.is_iterable(v) || v.is(Kind::loop) || v.is(Kind::bytes));
}
Value is_escaped(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(v.is_string() && v.string().markup);
}

Value is_sequence(Evaluator&, const Value& v, const Value*, CallArgs&) {
  // What has len() and can be indexed; an undefined value claims both.
  switch (v.kind()) {
    case Kind::undefined:
    case Kind::string:
    case Kind::bytes:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::range:
      return yes(true);
    default:
      return yes(false);
  }
}

Value is_callable(Evaluator&, const Value& v, const Value*, CallArgs&) {
  switch (v.kind()) {
    case Kind::undefined:
    case Kind::function:
    case Kind::method:
    case Kind::macro:
    case Kind::loop:
    case Kind::joiner:
      return yes(true);
    case Kind::block:
      return yes(v.as<BlockReference>().statement != nullptr);
    default:
      return yes(false);
  }
}

Value is_odd(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return yes(ev.equal(ev.binary(ExprType::mod, v, Value::integer(2)), Value::integer(1)));
}
Value is_even(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return yes(ev.equal(ev.binary(ExprType::mod, v, Value::integer(2)), Value::integer(0)));
}
Value is_divisible_by(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  return yes(ev.equal(ev.binary(ExprType::mod, v, p[0]), Value::integer(0)));
}
Value is_lower_case(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return find_method(Kind::string, "islower")->fn(ev, ev.to_str(v), nullptr, args);
}
Value is_upper_case(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  return find_method(Kind::string, "isupper")->fn(ev, ev.to_str(v), nullptr, args);
}
Value is_equal(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return yes(ev.equal(v, p[0])); }
Value is_unequal(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return yes(!ev.equal(v, p[0])); }
Value is_less(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return yes(ev.less(v, p[0])); }
Value is_at_most(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  return yes(ev.less(v, p[0]) || ev.equal(v, p[0]));
}
Value is_greater(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return yes(ev.less(p[0], v)); }
Value is_at_least(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  return yes(ev.less(p[0], v) || ev.equal(v, p[0]));
}
Value is_in(Evaluator& ev, const Value& v, const Value* p, CallArgs&) { return yes(ev.contains(p[0], v)); }
/// `v` as a key of Jinja's own dict of filters or tests.
std::string_view builtin_name(const Value& v) {
  uint64_t hash;
  if (!hash_value(v, &hash)) raise_type_error("unhashable type: '" + type_name(v) + "'");
  return v.is_string() ? v.string().text : std::string_view();
}
Value is_filter(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(find_filter(builtin_name(v)) != nullptr);
}
Value is_test(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(find_test(builtin_name(v)) != nullptr);
}
Value is_same(Evaluator&, const Value& v, const Value* p, CallArgs&) {
  if (v.is_string() && p[0].is_string()) return yes(v.string().text == p[0].string().text);
  return yes(v.same_object(p[0]));
}

const Builtin tests[] = {
    {"!=", is_unequal, 1, {"other"}},
    {"<", is_less, 1, {"other"}},
    {"<=", is_at_most, 1, {"other"}},
    {"==", is_equal, 1, {"other"}},
    {">", is_greater, 1, {"other"}},
    {">=", is_at_least, 1, {"other"}},
    {"boolean", is_boolean},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible_by, 1, {"num"}},
    {"eq", is_equal, 1, {"other"}},
    {"equalto", is_equal, 1, {"other"}},
    {"escaped", is_escaped},
    {"even", is_even},
    {"false", is_false},
    {"filter", is_filter},
    {"float", is_float},
    {"ge", is_at_least, 1, {"other"}},
    {"greaterthan", is_greater, 1, {"other"}},
    {"gt", is_greater, 1, {"other"}},
    {"in", is_in, 1, {"seq"}},
    {"integer", is_integer},
    {"iterable", is_iterable},
    {"le", is_at_most, 1, {"other"}},
    {"lessthan", is_less, 1, {"other"}},
    {"lower", is_lower_case},
    {"lt", is_less, 1, {"other"}},
    {"mapping", is_mapping},
    {"ne", is_unequal, 1, {"other"}},
    {"none", is_none},
    {"number", is_number},
    {"odd", is_odd},
    {"sameas", is_same, 1, {"other"}},
    {"sequence", is_sequence},
    {"string", is_string},
    {"test", is_test},
    {"true", is_true},
    {"undefined", is_undefined},
    {"upper", is_upper_case},
};

// --- methods
// ------------------------------------------------------------------------------------------------------------------

Value dict_get(Evaluator&, const Value& d, const Value* p, CallArgs&) {
  uint64_t hash;
  if (!hash_value(p[0], &hash)) raise_type_error("unhashable type: '" + type_name(p[0]) + "'");
  if (const Value* v = d.dict().find(p[0])) return *v;
  return given(p[1]) ? p[1] : Value::none();
}
Value view_of(Evaluator& ev, const Value& d, View::What what) { return Value::adopt(new View(&ev.budget, d, what)); }
Value dict_items(Evaluator& ev, const Value& d, const Value*, CallArgs&) { return view_of(ev, d, View::What::items); }
Value dict_keys(Evaluator& ev, const Value& d, const Value*, CallArgs&) { return view_of(ev, d, View::What::keys); }
Value dict_values(Evaluator& ev, const Value& d, const Value*, CallArgs&) { return view_of(ev, d, View::What::values); }
Value same(Evaluator&, const Value& v, const Value*, CallArgs&) { return v; }  // copy(): values do not change

const Builtin dict_methods[] = {
    {"clear", nullptr},
    {"copy", same, 0, {}, Binding::positional},
    {"get", dict_get, 1, {"key", "default"}, Binding::positional},
    {"items", dict_items, 0, {}, Binding::positional},
    {"keys", dict_keys, 0, {}, Binding::positional},
    {"pop", nullptr},
    {"popitem", nullptr},
    {"setdefault", nullptr},
    {"update", nullptr},
    {"values", dict_values, 0, {}, Binding::positional},
};

Value list_count(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  int64_t n = 0;
  for (const Value& item : ev.items(v)) n += item.same_object(p[0]) || ev.equal(item, p[0]);
  return Value::integer(n);
}
Value list_index(Evaluator& ev, const Value& v, const Value* p, CallArgs&) {
  const std::vector<Value> items = ev.items(v);
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].same_object(p[0]) || ev.equal(items[i], p[0])) return Value::integer(static_cast<int64_t>(i));
  }
  raise_value_error("value is not in list");
}

const Builtin list_methods[] = {
    {"append", nullptr},
    {"clear", nullptr},
    {"copy", same, 0, {}, Binding::positional},
    {"count", list_count, 1, {"value"}, Binding::positional},
    {"extend", nullptr},
    {"index", list_index, 1, {"value"}, Binding::positional},
    {"insert", nullptr},
    {"pop", nullptr},
    {"remove", nullptr},
    {"reverse", nullptr},
    {"sort", nullptr},
};
const Builtin tuple_methods[] = {
    {"count", list_count, 1, {"value"}, Binding::positional},
    {"index", list_index, 1, {"value"}, Binding::positional},
};

Value int_bit_length(Evaluator&, const Value& v, const Value*, CallArgs&) {
  const int64_t i = v.as_integer();
  const uint64_t magnitude = i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
  return Value::integer(64 - std::countl_zero(magnitude));
}
Value int_bit_count(Evaluator&, const Value& v, const Value*, CallArgs&) {
  const int64_t i = v.as_integer();
  return Value::integer(std::popcount(i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i)));
}
Value float_is_integer(Evaluator&, const Value& v, const Value*, CallArgs&) {
  return yes(std::isfinite(v.as_real()) && v.as_real() == std::floor(v.as_real()));
}
const Builtin int_methods[] = {
    {"bit_count", int_bit_count, 0, {}, Binding::positional},
    {"bit_length", int_bit_length, 0, {}, Binding::positional},
    {"conjugate", same, 0, {}, Binding::positional},
};
const Builtin float_methods[] = {
    {"conjugate", same, 0, {}, Binding::positional},
    {"is_integer", float_is_integer, 0, {}, Binding::positional},
};

Value bytes_decode(Evaluator& ev, const Value& v, const Value*, CallArgs&) {
  return ev.text(utf8_sanitize(v.as<Bytes>().data), v.as<Bytes>().trusted);
}
const Builtin bytes_methods[] = {{"decode", bytes_decode, 0, {"encoding", "errors"}}};

Value loop_cycle(Evaluator&, const Value& v, const Value*, CallArgs& args) {
  if (args.positional.empty()) raise_type_error("no items for cycling given");
  return args.positional[static_cast<size_t>(v.as<Loop>().index0) % args.positional.size()];
}
Value loop_changed(Evaluator& ev, const Value& v, const Value*, CallArgs& args) {
  Loop& loop = v.as<Loop>();
  Value now = ev.tuple(std::move(args.positional));
  if (!loop.last_changed.is_missing() && ev.equal(loop.last_changed, now)) return yes(false);
  loop.last_changed = std::move(now);
  return yes(true);
}
const Builtin loop_methods[] = {
    {"changed", loop_changed, 0, {}, Binding::variadic},
    {"cycle", loop_cycle, 0, {}, Binding::variadic},
};

Value cycler_next(Evaluator&, const Value& v, const Value*, CallArgs&) {
  Cycler& c = v.as<Cycler>();
  Value item = c.items[c.position];
  c.position = (c.position + 1) % c.items.size();
  return item;
}
Value cycler_reset(Evaluator&, const Value& v, const Value*, CallArgs&) {
  v.as<Cycler>().position = 0;
  return Value::none();
}
const Builtin cycler_methods[] = {
    {"next", cycler_next, 0, {}, Binding::positional},
    {"reset", cycler_reset, 0, {}, Binding::positional},
};

// --- global functions
// -------------------------------------------------------------------------------------------------------

constexpr int64_t sandbox_max_range = 100'000;  // jinja2.sandbox.MAX_RANGE

Value range(Evaluator& ev, const Value&, const Value* p, CallArgs&) {
  const int64_t first = ev.index_argument(p[0]);
  const int64_t step = given(p[2]) ? ev.index_argument(p[2]) : 1;
  if (step == 0) raise_value_error("range() arg 3 must not be zero");
  Value v = Value::adopt(given(p[1]) ? new Range(&ev.budget, first, ev.index_argument(p[1]), step)
                                     : new Range(&ev.budget, 0, first, 1));
  const int64_t n = v.as<Range>().length;
  if (n > sandbox_max_range) raise("OverflowError", "Range too big. The sandbox blocks ranges larger than 100000.");
  ev.budget.check_items(static_cast<size_t>(n));
  return v;
}

/// dict(mapping_or_pairs, **named)
Value make_dict(Evaluator& ev, CallArgs& args) {
  if (args.positional.size() > 1)
    raise_type_error("dict expected at most 1 argument, got " + std::to_string(args.positional.size()));
  Dict* dict = ev.new_dict();
  Value v = Value::adopt(dict);
  const auto set = [&](const Value& key, Value value) {
    if (!dict->set(key, std::move(value))) raise_type_error("unhashable type: '" + type_name(key) + "'");
  };
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is(Kind::dict)) {
      for (const DictEntry& e : from.dict().entries) set(e.key, e.value);
    } else {
      Iter iter(ev, from);
      Value pair;
      while (iter.next(ev, &pair)) {
        std::vector<Value> parts = ev.items(pair);
        if (parts.size() != 2)
          raise_value_error("dictionary update sequence element has length " + std::to_string(parts.size()) +
                            "; 2 is required");
        set(parts[0], std::move(parts[1]));
      }
    }
  }
  for (auto& [key, value] : args.named) set(key, std::move(value));
  return v;
}

Value dict_function(Evaluator& ev, const Value&, const Value*, CallArgs& args) { return make_dict(ev, args); }

Value namespace_function(Evaluator& ev, const Value&, const Value*, CallArgs& args) {
  auto* ns = new Namespace(&ev.budget);
  Value v = Value::adopt(ns);
  ns->attributes = make_dict(ev, args);
  return v;
}

Value cycler_function(Evaluator& ev, const Value&, const Value*, CallArgs& args) {
  if (args.positional.empty()) raise_type_error("at least one item has to be provided");
  return Value::adopt(new Cycler(&ev.budget, std::move(args.positional)));
}

Value joiner_function(Evaluator& ev, const Value&, const Value* p, CallArgs&) {
  return Value::adopt(new Joiner(&ev.budget, given(p[0]) ? p[0] : ev.text(", ", true)));
}

Value raise_exception(Evaluator& ev, const Value&, const Value* p, CallArgs&) { throw Error(ev.plain(p[0])); }

Value strftime_now(Evaluator& ev, const Value&, const Value* p, CallArgs&) {
  if (!p[0].is_string()) raise_type_error("strftime() argument 1 must be str, not " + type_name(p[0]));
  return ev.text(format_time(p[0].string().text, ev.now()), p[0].string().all_trusted());
}

Value lipsum(Evaluator&, const Value&, const Value*, CallArgs&) {
  raise("NotImplementedError", "lipsum() makes random text and is not provided");
}

const Builtin globals[] = {
    {"cycler", cycler_function, 0, {}, Binding::variadic},
    {"dict", dict_function, 0, {}, Binding::variadic},
    {"joiner", joiner_function, 0, {"sep"}},
    {"lipsum", lipsum, 0, {}, Binding::variadic},
    {"namespace", namespace_function, 0, {}, Binding::variadic},
    {"raise_exception", raise_exception, 1, {"message"}},
    {"range", range, 1, {"start", "stop", "step"}, Binding::positional},
    {"strftime_now", strftime_now, 1, {"format"}},
};

}  // namespace

// --- look-up
// ------------------------------------------------------------------------------------------------------------------

BuiltinTable::BuiltinTable(std::initializer_list<Part> parts) {
  size_t n = 0;
  for (const Part& part : parts) n += part.n;
  slots_.resize(std::bit_ceil(n * 4));
  for (const Part& part : parts) {
    for (size_t i = 0; i < part.n; ++i) {
      size_t slot = std::hash<std::string_view>()(part.rows[i].name) & (slots_.size() - 1);
      while (slots_[slot] != nullptr) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = &part.rows[i];
    }
  }
}

const Builtin* BuiltinTable::find(std::string_view name) const {
  size_t slot = std::hash<std::string_view>()(name) & (slots_.size() - 1);
  for (; slots_[slot] != nullptr; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot]->name == name) return slots_[slot];
  }
  return nullptr;
}

const Builtin* find_filter(std::string_view name) {
  static const BuiltinTable table{{text_filters, n_text_filters}, {sequence_filters, n_sequence_filters}};
  return table.find(name);
}
const Builtin* find_test(std::string_view name) {
  static const BuiltinTable table{{tests, std::size(tests)}};
  return table.find(name);
}
const Builtin* find_global(std::string_view name) {
  static const BuiltinTable table{{globals, std::size(globals)}};
  return table.find(name);
}

const Builtin* find_method(Kind kind, std::string_view name) {
  switch (kind) {
    case Kind::string: {
      static const BuiltinTable table{{string_methods, n_string_methods}};
      return table.find(name);
    }
    case Kind::dict: {
      static const BuiltinTable table{{dict_methods, std::size(dict_methods)}};
      return table.find(name);
    }
    case Kind::list: {
      static const BuiltinTable table{{list_methods, std::size(list_methods)}};
      return table.find(name);
    }
    case Kind::tuple: {
      static const BuiltinTable table{{tuple_methods, std::size(tuple_methods)}};
      return table.find(name);
    }
    case Kind::boolean:
    case Kind::integer: {
      static const BuiltinTable table{{int_methods, std::size(int_methods)}};
      return table.find(name);
    }
    case Kind::real: {
      static const BuiltinTable table{{float_methods, std::size(float_methods)}};
      return table.find(name);
    }
    case Kind::bytes: {
      static const BuiltinTable table{{bytes_methods, std::size(bytes_methods)}};
      return table.find(name);
    }
    case Kind::loop: {
      static const BuiltinTable table{{loop_methods, std::size(loop_methods)}};
      return table.find(name);
    }
    case Kind::cycler: {
      static const BuiltinTable table{{cycler_methods, std::size(cycler_methods)}};
      return table.find(name);
    }
    default:
      return nullptr;
  }
}

}  // namespace engine::jinja
