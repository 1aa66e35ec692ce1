// Looking into values: truth, length, iteration, attributes, items, slices, membership.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

// --- making values
// --------------------------------------------------------------------------------------------------------

Value Evaluator::text(std::string s, bool trusted) { return Value::adopt(new String(&budget, std::move(s), trusted)); }

Value Evaluator::undefined_hint(std::string_view hint) {
  const Value message = text(std::string(hint), true);
  return Value::undefined(UndefinedWhy::hint, &message.string());
}

namespace {
class FunctionIterator final : public Iterator {
 public:
  FunctionIterator(Budget* budget_, const char* name, std::function<bool(Evaluator&, Value*)> f)
      : Iterator(budget_, name, 256), f_(std::move(f)) {}
  bool next(Evaluator& ev, Value* out) override {
    ev.budget.spend(1);
    ev.check_stack();
    return f_(ev, out);
  }

 private:
  std::function<bool(Evaluator&, Value*)> f_;
};
}  // namespace

Value Evaluator::generator(const char* type_name, std::function<bool(Evaluator&, Value*)> next) {
  return Value::adopt(new FunctionIterator(&budget, type_name, std::move(next)));
}

Value substring(Budget& budget, const Value& s, size_t begin, size_t end) {
  const String& from = s.string();
  if (begin == 0 && end == from.text.size()) return s;
  TextBuilder out(budget);
  out.append(from, begin, end);
  return out.finish(from.markup);
}

// --- truth and length
// -----------------------------------------------------------------------------------------------------

bool Evaluator::truthy(const Value& v) {
  switch (v.kind()) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return v.as_integer() != 0;
    case Kind::big_uint:
      return true;
    case Kind::real:
      return v.as_real() != 0;
    case Kind::string:
      return !v.string().text.empty();
    case Kind::bytes:
      return !v.as<Bytes>().data.empty();
    case Kind::loop:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::view:
    case Kind::range:
      return length(v) != 0;
    default:
      return true;
  }
}

int64_t Evaluator::length(const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return static_cast<int64_t>(v.string().length());
    case Kind::bytes:
      return static_cast<int64_t>(v.as<Bytes>().data.size());
    case Kind::list:
    case Kind::tuple:
      return static_cast<int64_t>(v.list().items.size());
    case Kind::dict:
      return static_cast<int64_t>(v.dict().entries.size());
    case Kind::view:
      return static_cast<int64_t>(v.as<View>().dict.dict().entries.size());
    case Kind::range:
      return v.as<Range>().length;
    case Kind::loop:
      return v.as<Loop>().length(*this);
    default:
      raise_type_error("object of type '" + type_name(v) + "' has no len()");
  }
}

// --- iteration
// ------------------------------------------------------------------------------------------------------------

bool Evaluator::is_iterable(const Value& v) const {
  switch (v.kind()) {
    case Kind::undefined:
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::view:
    case Kind::range:
    case Kind::iterator:
      return true;
    default:
      return false;
  }
}

Iter::Iter(Evaluator& evaluator, Value v) : value_(std::move(v)) {
  if (!evaluator.is_iterable(value_)) raise_type_error("'" + type_name(value_) + "' object is not iterable");
}

std::optional<size_t> Iter::length() const {
  switch (value_.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return value_.string().length();
    case Kind::list:
    case Kind::tuple:
      return value_.list().items.size();
    case Kind::dict:
      return value_.dict().entries.size();
    case Kind::view:
      return value_.as<View>().dict.dict().entries.size();
    case Kind::range:
      return static_cast<size_t>(value_.as<Range>().length);
    default:
      return std::nullopt;
  }
}

bool Iter::next(Evaluator& ev, Value* out) {
  switch (value_.kind()) {
    case Kind::string: {
      const std::string_view s = value_.string().text;
      if (position_ >= s.size()) return false;
      const size_t begin = position_;
      utf8_next(s, &position_);
      TextBuilder one(ev.budget);  // a str even if the text is Markup
      one.append(value_.string(), begin, position_);
      *out = one.finish();
      return true;
    }
    case Kind::list:
    case Kind::tuple: {
      const auto& items = value_.list().items;
      if (position_ >= items.size()) return false;
      *out = items[position_++];
      return true;
    }
    case Kind::dict:
    case Kind::view: {
      const bool view = value_.is(Kind::view);
      const auto& entries = view ? value_.as<View>().dict.dict().entries : value_.dict().entries;
      if (position_ >= entries.size()) return false;
      const DictEntry& e = entries[position_++];
      const auto what = view ? value_.as<View>().what : View::What::keys;
      if (what == View::What::items)
        *out = ev.tuple({e.key, e.value});
      else
        *out = what == View::What::keys ? e.key : e.value;
      return true;
    }
    case Kind::range: {
      const Range& r = value_.as<Range>();
      if (position_ >= static_cast<size_t>(r.length)) return false;
      *out = Value::integer(r.at(static_cast<int64_t>(position_++)));
      return true;
    }
    case Kind::iterator:
      return value_.as<Iterator>().next(ev, out);
    default:
      return false;
  }
}

std::vector<Value> Evaluator::items(const Value& v) {
  if (v.is_sequence()) {
    budget.spend(v.list().items.size() / 8);
    return v.list().items;
  }
  Iter iter(*this, v);
  std::vector<Value> out;
  Value item;
  while (iter.next(*this, &item)) {
    budget.spend(1);
    budget.check_items(out.size());
    out.push_back(std::move(item));
  }
  return out;
}

// --- attributes
// -----------------------------------------------------------------------------------------------------------

Value Evaluator::undefined_attribute(const Value& object, const String& name) {
  return Value::undefined(UndefinedWhy::attribute, &name, object.kind());
}

/// Python's getattr without the fall back to items; missing if there is none.
Value Evaluator::own_attribute(const Value& object, const String& name) {
  if (object.is_undefined()) raise_undefined(object);
  if (object.is(Kind::name_space)) {
    const Value* v = object.as<Namespace>().attributes.dict().find(name);
    return v != nullptr ? *v : Value();
  }
  if (object.is(Kind::loop)) return loop_attribute(object.as<Loop>(), name);
  const std::string_view n = name.text;
  if (const Builtin* method = find_method(object.kind(), n)) {
    if (method->fn == nullptr) return Value::undefined(UndefinedWhy::unsafe, &name, object.kind());
    return Value::adopt(new Callable(&budget, Kind::method, method, object));
  }
  switch (object.kind()) {
    case Kind::macro: {
      const Function& f = *object.as<Macro>().function;
      if (n == "name") return f.name != nullptr ? Value::share(f.name) : Value::none();
      if (n == "arguments") {
        std::vector<Value> names;
        for (const Expr* p : f.parameters) names.push_back(Value::share(p->name));
        return tuple(std::move(names));
      }
      if (n == "catch_kwargs") return Value::boolean(f.kwargs_slot >= 0);
      if (n == "catch_varargs") return Value::boolean(f.varargs_slot >= 0);
      if (n == "caller") return Value::boolean(f.caller_slot >= 0);
      break;
    }
    case Kind::tuple:
      if (object.list().grouped && n == "grouper") return object.list().items[0];
      if (object.list().grouped && n == "list") return object.list().items[1];
      break;
    case Kind::range: {
      const Range& r = object.as<Range>();
      if (n == "start") return Value::integer(r.start);
      if (n == "stop") return Value::integer(r.stop);
      if (n == "step") return Value::integer(r.step);
      break;
    }
    case Kind::cycler: {
      const Cycler& c = object.as<Cycler>();
      if (n == "current" && c.position < c.items.size()) return c.items[c.position];
      if (n == "pos") return Value::integer(static_cast<int64_t>(c.position));
      if (n == "items") return tuple(c.items);
      break;
    }
    case Kind::boolean:
    case Kind::integer:
      if (n == "real" || n == "numerator") return Value::integer(object.as_integer(), object.trusted());
      if (n == "imag") return Value::integer(0);
      if (n == "denominator") return Value::integer(1);
      break;
    case Kind::real:
      if (n == "real") return object;
      if (n == "imag") return Value::real(0);
      break;
    case Kind::block:
      if (object.as<BlockReference>().statement != nullptr) break;
      for (const Stmt& s : ast_.stmts) {
        budget.spend(1);
        if (s.type == StmtType::block && s.text->text == n) return Value::adopt(new BlockReference(&budget, &s));
      }
      break;
    default:
      break;
  }
  // What begins with two underscores exists on every Python object, out of reach.
  if (n.size() > 4 && n.substr(0, 2) == "__" && n.substr(n.size() - 2) == "__")
    return Value::undefined(UndefinedWhy::unsafe, &name, object.kind());
  return Value();
}

/// object.name: the attribute, else the item of that name.
Value Evaluator::attribute(const Value& object, const String& name) {
  Value v = own_attribute(object, name);
  if (!v.is_missing()) return v;
  if (object.is(Kind::dict)) {
    if (const Value* found = object.dict().find(name)) return *found;
  }
  return undefined_attribute(object, name);
}

Value Evaluator::loop_attribute(Loop& loop, const String& name) {
  const std::string_view n = name.text;
  if (n == "index0") return Value::integer(loop.index0);
  if (n == "index") return Value::integer(loop.index0 + 1);
  if (n == "first") return Value::boolean(loop.index0 == 0);
  if (n == "last") return Value::boolean(loop.peek(*this).is_missing());
  if (n == "length") return Value::integer(loop.length(*this));
  if (n == "revindex") return Value::integer(loop.length(*this) - loop.index0);
  if (n == "revindex0") return Value::integer(loop.length(*this) - loop.index0 - 1);
  if (n == "depth") return Value::integer(loop.depth0 + 1);
  if (n == "depth0") return Value::integer(loop.depth0);
  if (n == "previtem") return loop.index0 == 0 ? undefined_hint("there is no previous item") : loop.before;
  if (n == "nextitem") {
    const Value& v = loop.peek(*this);
    return v.is_missing() ? undefined_hint("there is no next item") : v;
  }
  if (const Builtin* method = find_method(Kind::loop, n))
    return Value::adopt(new Callable(&budget, Kind::method, method, Value::share(static_cast<Object*>(&loop))));
  return Value();
}

// --- items and slices
// -------------------------------------------------------------------------------------------------------

/// The byte range of the i-th code point, or false.
static bool char_range(const String& s, int64_t i, size_t* begin, size_t* end) {
  const auto n = static_cast<int64_t>(s.length());
  if (i < 0) i += n;
  if (i < 0 || i >= n) return false;
  *begin = s.is_ascii() ? static_cast<size_t>(i) : utf8_offset(s.text, static_cast<size_t>(i));
  *end = *begin;
  utf8_next(s.text, end);
  return true;
}

/// object[key]: the item, else the attribute of that name.
Value Evaluator::item(const Value& object, const Value& key) {
  switch (object.kind()) {
    case Kind::undefined:
      raise_undefined(object);
    case Kind::dict:
      if (const Value* v = object.dict().find(key)) return *v;
      break;
    case Kind::list:
    case Kind::tuple:
      if (key.is_integer()) {
        const auto& items = object.list().items;
        int64_t i = key.as_integer();
        if (i < 0) i += static_cast<int64_t>(items.size());
        if (i >= 0 && i < static_cast<int64_t>(items.size())) return items[static_cast<size_t>(i)];
      }
      break;
    case Kind::string:
      if (key.is_integer()) {
        budget.spend(object.string().text.size() / 64);
        size_t begin, end;
        if (char_range(object.string(), key.as_integer(), &begin, &end)) return substring(budget, object, begin, end);
      }
      break;
    case Kind::range:
      if (key.is_integer()) {
        const Range& r = object.as<Range>();
        int64_t i = key.as_integer();
        if (i < 0) i += r.length;
        if (i >= 0 && i < r.length) return Value::integer(r.at(i));
      }
      break;
    default:
      break;
  }
  if (!key.is_string()) return Value::undefined(UndefinedWhy::item, nullptr, object.kind());
  Value v = own_attribute(object, key.string());
  return v.is_missing() ? undefined_attribute(object, key.string()) : v;
}

namespace {
struct SliceRange {
  int64_t start, stop, step, count;
};

int64_t slice_index(const Value& v, int64_t missing, int64_t n, int64_t low, int64_t high) {
  if (v.is_none()) return missing;
  int64_t i = v.as_integer();
  if (i < 0) {
    i = i < -n ? low : i + n;
    if (i < low) i = low;
  }
  return i > high ? high : i;
}

/// Python's slice.indices.
SliceRange slice_range(const Value& start, const Value& stop, const Value& step, int64_t n) {
  for (const Value* v : {&start, &stop, &step}) {
    if (!v->is_none() && !v->is_integer())
      raise_type_error("slice indices must be integers or None or have an __index__ method");
  }
  SliceRange r{0, 0, step.is_none() ? 1 : step.as_integer(), 0};
  if (r.step == 0) raise_value_error("slice step cannot be zero");
  if (r.step == INT64_MIN) r.step = -INT64_MAX;
  const bool up = r.step > 0;
  r.start = slice_index(start, up ? 0 : n - 1, n, up ? 0 : -1, up ? n : n - 1);
  r.stop = slice_index(stop, up ? n : -1, n, up ? 0 : -1, up ? n : n - 1);
  if (up && r.start < r.stop) r.count = (r.stop - r.start - 1) / r.step + 1;
  if (!up && r.start > r.stop) r.count = (r.start - r.stop - 1) / -r.step + 1;
  return r;
}

Value slice_text(Budget& budget, const Value& object, const SliceRange& r) {
  const String& s = object.string();
  if (r.count == 0) {
    TextBuilder out(budget);
    return out.finish(s.markup);
  }
  if (s.is_ascii() && r.step == 1)
    return substring(budget, object, static_cast<size_t>(r.start), static_cast<size_t>(r.stop));
  if (r.step == 1) {
    const size_t begin = utf8_offset(s.text, static_cast<size_t>(r.start));
    const size_t end = begin + utf8_offset(s.text.substr(begin), static_cast<size_t>(r.count));
    return substring(budget, object, begin, end);
  }
  std::vector<uint32_t> offsets;  // of each code point, and the end
  offsets.reserve(s.length() + 1);
  for (size_t pos = 0; pos < s.text.size(); utf8_next(s.text, &pos)) offsets.push_back(static_cast<uint32_t>(pos));
  offsets.push_back(static_cast<uint32_t>(s.text.size()));
  TextBuilder out(budget);
  TrustCursor trust(s);
  for (int64_t k = 0; k < r.count; ++k) {
    const auto i = static_cast<size_t>(r.start + k * r.step);
    const size_t begin = offsets[i];
    out.append(s.text.substr(begin, offsets[i + 1] - begin), trust.at(begin));
  }
  return out.finish(s.markup);
}
}  // namespace

Value Evaluator::slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) raise_undefined(object);
  switch (object.kind()) {
    case Kind::string: {
      const SliceRange r = slice_range(start, stop, step, length(object));
      budget.spend(object.string().text.size() / 64 + static_cast<uint64_t>(r.step == 1 ? 0 : r.count / 8));
      return slice_text(budget, object, r);
    }
    case Kind::list:
    case Kind::tuple: {
      const SliceRange r = slice_range(start, stop, step, length(object));
      budget.spend(static_cast<uint64_t>(r.count) / 8);
      std::vector<Value> out;
      out.reserve(static_cast<size_t>(r.count));
      for (int64_t k = 0; k < r.count; ++k)
        out.push_back(object.list().items[static_cast<size_t>(r.start + k * r.step)]);
      return object.is(Kind::list) ? list(std::move(out)) : tuple(std::move(out));
    }
    case Kind::range: {
      const Range& from = object.as<Range>();
      const SliceRange r = slice_range(start, stop, step, from.length);
      if (r.count == 0) return Value::adopt(new Range(&budget, from.start, from.start, from.step));
      int64_t new_step, width, stop_at;
      const int64_t first = from.at(r.start);
      if (__builtin_mul_overflow(from.step, r.step, &new_step) || __builtin_mul_overflow(r.count, new_step, &width) ||
          __builtin_add_overflow(first, width, &stop_at))
        raise("OverflowError", "range is too large");
      return Value::adopt(new Range(&budget, first, stop_at, new_step));
    }
    default:
      raise_type_error("'" + type_name(object) + "' object is not subscriptable");
  }
}

// --- membership
// -------------------------------------------------------------------------------------------------------------

bool Evaluator::contains(const Value& container, const Value& v) {
  switch (container.kind()) {
    case Kind::string: {
      if (!v.is_string()) raise_type_error("'in <string>' requires string as left operand, not " + type_name(v));
      const std::string_view where = container.string().text;
      const std::string_view what = v.string().text;
      budget.spend(where.size() / 64);
      // memmem is linear, string_view::find is not
      return what.empty() || memmem(where.data(), where.size(), what.data(), what.size()) != nullptr;
    }
    case Kind::dict:
    case Kind::view:
      if (container.is(Kind::view) && container.as<View>().what != View::What::keys) break;
      {
        uint64_t hash;
        if (!hash_value(v, &hash)) raise_type_error("unhashable type: '" + type_name(v) + "'");
        const Dict& dict = container.is(Kind::dict) ? container.dict() : container.as<View>().dict.dict();
        return dict.find(v) != nullptr;
      }
    case Kind::range:
      if (v.is_integer()) {
        const Range& r = container.as<Range>();
        const int64_t i = v.as_integer();
        if (r.length == 0) return false;
        const int64_t last = r.at(r.length - 1);
        if (i < std::min(r.start, last) || i > std::max(r.start, last)) return false;
        return static_cast<int64_t>((static_cast<uint64_t>(i) - static_cast<uint64_t>(r.start))) % r.step == 0;
      }
      break;
    default:
      break;
  }
  if (!is_iterable(container)) raise_type_error("argument of type '" + type_name(container) + "' is not iterable");
  if (container.is_sequence()) {
    for (const Value& item : container.list().items) {
      if (item.same_object(v) || equal(item, v)) return true;
    }
    return false;
  }
  Iter iter(*this, container);
  Value item;
  while (iter.next(*this, &item)) {
    budget.spend(1);
    if (equal(item, v)) return true;
  }
  return false;
}

int64_t Evaluator::index_argument(const Value& v) {
  if (v.is_undefined() || !v.is_integer())
    raise_type_error("'" + type_name(v) + "' object cannot be interpreted as an integer");
  return v.as_integer();
}

}  // namespace engine::jinja
