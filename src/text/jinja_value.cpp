#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

// --- budget and lifetime
// -----------------------------------------------------------------------------------------------

void Budget::out_of_steps() { throw Error("chat template: takes too many steps", "it may loop without end"); }

void Budget::claim(size_t bytes) {
  live_bytes += bytes;
  if (live_bytes > max_live_bytes) throw Error("chat template: its variables take too much memory");
}

void Budget::check_text(size_t bytes) const {
  if (bytes > max_text_bytes)
    throw Error("chat template: text is too long: expected at most " + std::to_string(max_text_bytes) + " bytes");
}

void Budget::check_items(size_t n) const {
  if (n > max_items)
    throw Error("chat template: sequence is too long: expected at most " + std::to_string(max_items) + " items");
}

void Budget::clear_mutables() {
  // Clearing one may destroy others, so each round starts from the head; a cleared object leaves the list.
  while (mutables != nullptr) {
    Mutable* m = mutables;
    mutables = m->next;
    if (mutables != nullptr) mutables->previous = nullptr;
    m->next = m->previous = nullptr;
    retain(m);
    m->clear();
    release(m);
  }
}

Budget::~Budget() { clear_mutables(); }

void destroy(Object* object) {
  Budget* budget = object->budget;
  budget->dying.push_back(object);
  if (budget->destroying) return;
  budget->destroying = true;
  while (!budget->dying.empty()) {
    Object* o = budget->dying.back();
    budget->dying.pop_back();
    budget->live_bytes -= o->cost;
    delete o;
  }
  budget->destroying = false;
}

Mutable::Mutable(Kind kind_, Budget* budget_, size_t cost_) : Object(kind_, budget_, cost_) {
  next = budget->mutables;
  if (next != nullptr) next->previous = this;
  budget->mutables = this;
}

Mutable::~Mutable() {
  if (previous != nullptr)
    previous->next = next;
  else if (budget->mutables == this)
    budget->mutables = next;
  if (next != nullptr) next->previous = previous;
}

// --- values
// --------------------------------------------------------------------------------------------------------------

Value Value::undefined(UndefinedWhy why, const String* detail, Kind owner) {
  Value v;
  v.kind_ = Kind::undefined;
  v.why_ = why;
  v.owner_ = owner;
  v.u_.object = const_cast<String*>(detail);
  if (detail != nullptr) retain(v.u_.object);
  return v;
}

const String* Value::undefined_detail() const { return static_cast<const String*>(u_.object); }

String::String(Budget* budget_, std::string&& owned, bool trusted_)
    : Object(Kind::string, budget_, sizeof(String) + owned.size()), trusted(trusted_), storage_(std::move(owned)) {
  text = storage_;
  if (budget == nullptr) {  // shared between threads: nothing may be computed later
    count();
    compute_hash();
  }
}

String::String(Budget* budget_, std::string_view borrowed, bool trusted_)
    : Object(Kind::string, budget_, sizeof(String)), text(borrowed), trusted(trusted_) {}

size_t String::count() const {
  n_chars_ = utf8_length(text);
  return n_chars_;
}

uint64_t String::compute_hash() const {
  uint64_t h = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  hash_ = h != 0 ? h : 1;
  return hash_;
}

List::List(Budget* budget_, std::vector<Value>&& items_, Kind kind_)
    : Object(kind_, budget_, sizeof(List) + items_.size() * sizeof(Value)), items(std::move(items_)) {
  if (budget != nullptr) budget->check_items(items.size());
}

Range::Range(Budget* budget_, int64_t start_, int64_t stop_, int64_t step_)
    : Object(Kind::range, budget_, sizeof(Range)), start(start_), stop(stop_), step(step_), length(0) {
  // Unsigned arithmetic: the distance of two int64 fits uint64.
  if (step > 0 && start < stop) {
    const uint64_t distance = static_cast<uint64_t>(stop) - static_cast<uint64_t>(start);
    const uint64_t n = (distance - 1) / static_cast<uint64_t>(step) + 1;
    length = n > INT64_MAX ? INT64_MAX : static_cast<int64_t>(n);
  } else if (step < 0 && start > stop) {
    const uint64_t distance = static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
    const uint64_t n = (distance - 1) / (0 - static_cast<uint64_t>(step)) + 1;
    length = n > INT64_MAX ? INT64_MAX : static_cast<int64_t>(n);
  }
}

// --- dicts
// ---------------------------------------------------------------------------------------------------------------

static uint64_t mix(uint64_t h) {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdull;
  h ^= h >> 33;
  return h;
}

bool hash_value(const Value& v, uint64_t* out, int depth) {
  switch (v.kind()) {
    case Kind::string:
      *out = v.string().hash();
      return true;
    case Kind::none:
      *out = mix(1);
      return true;
    case Kind::boolean:
    case Kind::integer:
      *out = mix(static_cast<uint64_t>(v.as_integer()) + 7);
      return true;
    case Kind::big_uint:
      *out = mix(v.as_big_uint() + 7);
      return true;
    case Kind::real: {
      const double d = v.as_real();
      // A float that is an integer must hash as that integer does.
      if (d >= -9.2e18 && d <= 9.2e18 && d == std::floor(d)) {
        *out = mix(static_cast<uint64_t>(static_cast<int64_t>(d)) + 7);
      } else {
        uint64_t bits;
        std::memcpy(&bits, &d, sizeof bits);
        *out = mix(bits);
      }
      return true;
    }
    case Kind::tuple: {
      uint64_t h = 0x345678;
      for (const Value& item : v.list().items) {
        uint64_t one;
        if (depth >= max_nesting) raise_too_nested();
        if (!hash_value(item, &one, depth + 1)) return false;
        h = mix(h ^ one) + 0x9e3779b9;
      }
      *out = h;
      return true;
    }
    case Kind::list:
    case Kind::dict:
    case Kind::view:
    case Kind::missing:
      return false;
    case Kind::undefined:
      *out = mix(3);
      return true;
    default:
      *out = mix(reinterpret_cast<uintptr_t>(v.object()));
      return true;
  }
}

bool keys_equal(const Value& a, const Value& b, int depth) {
  if (a.is_string() && b.is_string()) return a.string().text == b.string().text;
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.as_integer() == b.as_integer();
    return a.as_real() == b.as_real();
  }
  if (a.kind() != b.kind()) return false;
  if (a.is(Kind::none) || a.is(Kind::undefined)) return true;
  if (a.is(Kind::big_uint)) return a.as_big_uint() == b.as_big_uint();
  if (a.is(Kind::tuple)) {
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    if (x.size() != y.size()) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      if (depth >= max_nesting) raise_too_nested();
      if (!keys_equal(x[i], y[i], depth + 1)) return false;
    }
    return true;
  }
  return a.same_object(b);
}

static constexpr size_t small_dict = 8;

int64_t Dict::find_index(const Value& key, uint64_t hash) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].hash == hash && keys_equal(entries[i].key, key)) return static_cast<int64_t>(i);
    }
    return -1;
  }
  const size_t mask = index_.size() - 1;
  for (size_t slot = mix(hash) & mask; index_[slot] != 0; slot = (slot + 1) & mask) {
    const DictEntry& e = entries[index_[slot] - 1];
    if (e.hash == hash && keys_equal(e.key, key)) return index_[slot] - 1;
  }
  return -1;
}

const Value* Dict::find(const Value& key) const {
  uint64_t hash;
  if (!hash_value(key, &hash)) return nullptr;
  const int64_t i = find_index(key, hash);
  return i < 0 ? nullptr : &entries[static_cast<size_t>(i)].value;
}

const Value* Dict::find(const String& key) const {
  const uint64_t hash = key.hash();
  if (index_.empty()) {
    for (const DictEntry& e : entries) {
      if (e.hash == hash && e.key.is_string() && e.key.string().text == key.text) return &e.value;
    }
    return nullptr;
  }
  return find(Value::share(&key));
}

bool Dict::set(const Value& key, Value value) {
  uint64_t hash;
  if (!hash_value(key, &hash)) return false;
  const int64_t i = find_index(key, hash);
  if (i >= 0) {
    entries[static_cast<size_t>(i)].value = std::move(value);
    return true;
  }
  if (budget != nullptr) {
    budget->check_items(entries.size() + 1);
    budget->claim(sizeof(DictEntry));
    cost += sizeof(DictEntry);
  }
  entries.push_back({key, std::move(value), hash});
  if (entries.size() > small_dict) {
    if (index_.size() < entries.size() * 2) {
      rehash();
    } else {
      const size_t mask = index_.size() - 1;
      size_t slot = mix(hash) & mask;
      while (index_[slot] != 0) slot = (slot + 1) & mask;
      index_[slot] = static_cast<uint32_t>(entries.size());
    }
  }
  return true;
}

void Dict::rehash() {
  size_t n = 32;
  while (n < entries.size() * 4) n *= 2;
  index_.assign(n, 0);
  for (size_t i = 0; i < entries.size(); ++i) {
    size_t slot = mix(entries[i].hash) & (n - 1);
    while (index_[slot] != 0) slot = (slot + 1) & (n - 1);
    index_[slot] = static_cast<uint32_t>(i + 1);
  }
}

// --- text
// ----------------------------------------------------------------------------------------------------------------

void TextBuilder::append(const String& s, size_t begin, size_t end) {
  if (begin >= end) return;
  if (s.runs.empty()) {
    append(s.text.substr(begin, end - begin), s.trusted);
    return;
  }
  auto run =
      std::upper_bound(s.runs.begin(), s.runs.end(), begin, [](size_t at, const TrustRun& r) { return at < r.end; });
  for (; begin < end; ++run) {
    const size_t to = std::min(end, run->end);
    append(s.text.substr(begin, to - begin), run->trusted);
    begin = to;
  }
}

void TextBuilder::grow() {
  const size_t now = bytes_.capacity() + ends_.capacity() * sizeof(TrustRun);
  const size_t more = now - claimed_;
  claimed_ = now;
  budget_.claim(more);
}

void TextBuilder::append_repeated(std::string_view text, size_t n, bool trusted) {
  if (text.empty() || n == 0) return;
  if (n > budget_.max_text_bytes / text.size()) budget_.check_text(SIZE_MAX);
  for (size_t i = 0; i < n; ++i) append(text, trusted);
}

Value TextBuilder::finish(bool markup) {
  budget_.spend(1 + bytes_.size() / 64);
  std::vector<TrustRun> runs = std::move(ends_);
  ends_.clear();
  bool trusted = true;
  if (!runs.empty()) {
    runs.back().end = bytes_.size();
    trusted = runs.back().trusted;
  }
  budget_.live_bytes -= claimed_;
  claimed_ = 0;
  auto* s = new String(&budget_, std::move(bytes_), trusted);
  bytes_.clear();
  s->markup = markup;
  if (runs.size() > 1) {
    s->runs = std::move(runs);
    const size_t bytes = s->runs.size() * sizeof(TrustRun);
    s->cost += bytes;
    Value v = Value::adopt(s);  // owned before the claim, which may throw
    budget_.live_bytes += bytes;
    budget_.claim(0);
    return v;
  }
  return Value::adopt(s);
}

// --- names and errors
// ----------------------------------------------------------------------------------------------------

std::string type_name(Kind kind) {
  switch (kind) {
    case Kind::missing:
      return "missing";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
    case Kind::big_uint:
      return "int";
    case Kind::real:
      return "float";
    case Kind::undefined:
      return "Undefined";
    case Kind::string:
      return "str";
    case Kind::bytes:
      return "bytes";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::view:
      return "dict_view";
    case Kind::range:
      return "range";
    case Kind::iterator:
      return "generator";
    case Kind::name_space:
      return "Namespace";
    case Kind::loop:
      return "LoopContext";
    case Kind::macro:
      return "Macro";
    case Kind::function:
      return "function";
    case Kind::method:
      return "builtin_function_or_method";
    case Kind::cycler:
      return "Cycler";
    case Kind::joiner:
      return "Joiner";
    case Kind::block:
      return "BlockReference";
    case Kind::frame:
      return "frame";
  }
  return "object";
}

std::string type_name(const Value& v) {
  if (v.is(Kind::view)) {
    const auto what = v.as<View>().what;
    return what == View::What::keys ? "dict_keys" : what == View::What::values ? "dict_values" : "dict_items";
  }
  if (v.is(Kind::iterator)) return v.as<Iterator>().type_name;
  if (v.is_string() && v.string().markup) return "Markup";
  return type_name(v.kind());
}

void raise(const char* type, std::string message) { throw PyError{type, std::move(message)}; }
void raise_type_error(std::string message) { throw PyError{"TypeError", std::move(message)}; }
void raise_value_error(std::string message) { throw PyError{"ValueError", std::move(message)}; }

void raise_too_nested() { raise("RecursionError", "values are nested too deeply"); }

void raise_undefined(const Value& v) {
  const String* detail = v.undefined_detail();
  const std::string name = detail != nullptr ? std::string(detail->text) : std::string();
  const std::string owner = v.owner() == Kind::none ? "'None'" : "'" + type_name(v.owner()) + " object'";
  switch (v.why()) {
    case UndefinedWhy::variable:
      raise("UndefinedError", "'" + name + "' is undefined");
    case UndefinedWhy::attribute:
      raise("UndefinedError", owner + " has no attribute '" + name + "'");
    case UndefinedWhy::item:
      raise("UndefinedError", type_name(v.owner()) + " object has no such element");
    case UndefinedWhy::unsafe:
      raise("SecurityError", "access to attribute '" + name + "' of '" + type_name(v.owner()) + "' object is unsafe.");
    case UndefinedWhy::parameter:
      raise("UndefinedError", "parameter '" + name + "' was not provided");
    case UndefinedWhy::hint:
      raise("UndefinedError", name);
  }
  raise("UndefinedError", "value is undefined");
}

}  // namespace engine::jinja
