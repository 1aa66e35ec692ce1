// Values of the template language: Python's objects as far as templates can see them.
//
// A Value is 16 bytes: a kind, a trust bit for scalars, and a number or a counted pointer. Objects belong to one
// rendering (counted without atomics, charged to its Budget) or to the parsed template (no budget, never counted, safe
// to share between threads). Lists and dicts are immutable once made, as the sandbox demands, so that a message list is
// shared and never copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine::jinja {

class Evaluator;

/// From `undefined` on, a value may hold a counted object.
enum class Kind : uint8_t {
  missing,  // no value at all: an argument that was not given, a variable that is not bound
  none,
  boolean,
  integer,
  big_uint /* above int64's range, from the context only */,
  real,
  undefined,
  string,
  bytes,
  list,
  tuple,
  dict,
  view,
  range,
  iterator,
  name_space,
  loop,
  macro,
  function,
  method,
  cycler,
  joiner,
  block,
  frame
};

struct Object;
struct Mutable;

/// What one rendering may use up, and the objects that could form cycles.
struct Budget {
  uint64_t steps_left = 0;
  size_t live_bytes = 0;
  size_t max_live_bytes = 0;
  size_t max_text_bytes = 0;   // of one string, and of the output
  size_t max_items = 0;        // of one list
  std::vector<Object*> dying;  // objects whose destruction waits, so that long chains need no recursion
  bool destroying = false;
  Mutable* mutables = nullptr;

  /// Counts work. Throws Error when it is used up.
  void spend(uint64_t steps) {
    if (steps > steps_left) [[unlikely]]
      out_of_steps();
    steps_left -= steps;
  }
  [[noreturn]] void out_of_steps();
  void claim(size_t bytes);
  void check_text(size_t bytes) const;
  void check_items(size_t n) const;
  /// Breaks reference cycles at the end of a rendering.
  void clear_mutables();
  ~Budget();
};

struct Object {
  Object(Kind kind_, Budget* budget_, size_t cost_) : refs(1), kind(kind_), budget(budget_), cost(cost_) {
    if (budget != nullptr) budget->claim(cost);
  }
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  uint32_t refs;
  Kind kind;
  Budget* budget;  // null: part of the parsed template
  size_t cost;     // bytes charged to the budget
};

void destroy(Object* object);

inline void retain(Object* o) {
  if (o->budget != nullptr) ++o->refs;
}
inline void release(Object* o) {
  if (o->budget != nullptr && --o->refs == 0) destroy(o);
}

/// An object that can be changed after it was made, and so be part of a cycle. The budget keeps a list of them.
struct Mutable : Object {
  Mutable(Kind kind_, Budget* budget_, size_t cost_);
  ~Mutable() override;
  virtual void clear() = 0;
  Mutable* previous = nullptr;
  Mutable* next = nullptr;
};

struct String;
struct List;
struct Dict;

/// Why a value is undefined; decides the message of the error that using it raises.
enum class UndefinedWhy : uint8_t { variable, attribute, item, unsafe, parameter, hint };

class Value {
 public:
  Value() = default;
  Value(const Value& v) : kind_(v.kind_), trusted_(v.trusted_), why_(v.why_), owner_(v.owner_), u_(v.u_) {
    if (counted()) retain(u_.object);
  }
  Value(Value&& v) noexcept : kind_(v.kind_), trusted_(v.trusted_), why_(v.why_), owner_(v.owner_), u_(v.u_) {
    v.kind_ = Kind::missing;
  }
  Value& operator=(Value v) noexcept {
    std::swap(kind_, v.kind_);
    std::swap(trusted_, v.trusted_);
    std::swap(why_, v.why_);
    std::swap(owner_, v.owner_);
    std::swap(u_, v.u_);
    return *this;
  }
  ~Value() {
    if (counted()) release(u_.object);
  }

  static Value none(bool trusted = true) { return scalar(Kind::none, trusted); }
  static Value boolean(bool b, bool trusted = true) {
    Value v = scalar(Kind::boolean, trusted);
    v.u_.integer = b ? 1 : 0;
    return v;
  }
  static Value integer(int64_t i, bool trusted = true) {
    Value v = scalar(Kind::integer, trusted);
    v.u_.integer = i;
    return v;
  }
  static Value big_uint(uint64_t i, bool trusted) {
    Value v = scalar(Kind::big_uint, trusted);
    v.u_.integer = static_cast<int64_t>(i);
    return v;
  }
  static Value real(double d, bool trusted = true) {
    Value v = scalar(Kind::real, trusted);
    v.u_.real = d;
    return v;
  }
  /// Takes over one reference.
  static Value adopt(Object* object) {
    Value v = scalar(object->kind, true);
    v.u_.object = object;
    return v;
  }
  /// Adds a reference.
  static Value share(Object* object) {
    retain(object);
    return adopt(object);
  }
  static Value share(const String* string);
  /// `detail`: the name of the variable, attribute or parameter, the hint, or null. `owner`: the kind of the object
  /// that lacks the attribute.
  static Value undefined(UndefinedWhy why, const String* detail, Kind owner = Kind::missing);

  Kind kind() const { return kind_; }
  bool is(Kind k) const { return kind_ == k; }
  bool is_missing() const { return kind_ == Kind::missing; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }
  /// int in Python's sense: booleans are.
  bool is_integer() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integer() || kind_ == Kind::real; }

  bool as_bool() const { return u_.integer != 0; }
  int64_t as_integer() const { return u_.integer; }
  uint64_t as_big_uint() const { return static_cast<uint64_t>(u_.integer); }
  double as_real() const { return kind_ == Kind::real ? u_.real : static_cast<double>(u_.integer); }
  Object* object() const { return u_.object; }
  const String& string() const;
  const List& list() const;
  const Dict& dict() const;
  template <class T>
  T& as() const {
    return static_cast<T&>(*u_.object);
  }

  /// Of a scalar: false if it came from untrusted input. Strings carry their own record.
  bool trusted() const { return trusted_; }
  void set_trusted(bool t) { trusted_ = t; }
  UndefinedWhy why() const { return why_; }
  Kind owner() const { return owner_; }
  const String* undefined_detail() const;
  bool same_object(const Value& v) const { return kind_ == v.kind_ && u_.integer == v.u_.integer; }

 private:
  static Value scalar(Kind kind, bool trusted) {
    Value v;
    v.kind_ = kind;
    v.trusted_ = trusted;
    return v;
  }
  bool counted() const { return kind_ >= Kind::undefined && u_.object != nullptr; }

  Kind kind_ = Kind::missing;
  bool trusted_ = true;
  UndefinedWhy why_ = UndefinedWhy::variable;
  Kind owner_ = Kind::missing;
  union {
    int64_t integer = 0;
    double real;
    Object* object;
  } u_;
};
static_assert(sizeof(Value) == 16);

/// Text up to (not including) byte `end` has this trust.
struct TrustRun {
  size_t end;
  bool trusted;
};

/// UTF-8 text that knows for each byte whether it may be trusted.
struct String final : Object {
  String(Budget* budget_, std::string&& owned, bool trusted_);
  /// Text that somebody else keeps alive as long as this object (the context, the template).
  String(Budget* budget_, std::string_view borrowed, bool trusted_);

  std::string_view text;
  bool markup = false;         // markupsafe.Markup: concatenation escapes the other side
  bool trusted;                // if runs is empty
  std::vector<TrustRun> runs;  // empty, or at least two, ends ascending up to text.size()

  /// Length in code points.
  size_t length() const { return n_chars_ != unknown ? n_chars_ : count(); }
  bool is_ascii() const { return length() == text.size(); }
  uint64_t hash() const { return hash_ != 0 ? hash_ : compute_hash(); }
  /// For what is added around the text (quotes, padding): trusted only if all of it is.
  bool all_trusted() const { return runs.empty() && trusted; }

 private:
  static constexpr size_t unknown = SIZE_MAX;
  size_t count() const;
  uint64_t compute_hash() const;
  std::string storage_;
  mutable size_t n_chars_ = unknown;
  mutable uint64_t hash_ = 0;
};

/// The trust of one byte after another; cheap when they are near each other.
class TrustCursor {
 public:
  explicit TrustCursor(const String& s) : s_(s) {}
  bool at(size_t byte) {
    if (s_.runs.empty()) return s_.trusted;
    while (i_ + 1 < s_.runs.size() && s_.runs[i_].end <= byte) ++i_;
    while (i_ > 0 && s_.runs[i_ - 1].end > byte) --i_;
    return s_.runs[i_].trusted;
  }

 private:
  const String& s_;
  size_t i_ = 0;
};

struct List final : Object {
  List(Budget* budget_, std::vector<Value>&& items_, Kind kind_ = Kind::list);
  std::vector<Value> items;
  bool grouped = false;  // a tuple of the groupby filter, with attributes grouper and list
};

struct DictEntry {
  Value key;
  Value value;
  uint64_t hash;
};

/// Insertion-ordered. Filled by its maker, then left alone (but for a namespace's).
struct Dict final : Object {
  explicit Dict(Budget* budget_) : Object(Kind::dict, budget_, sizeof(Dict)) {}
  std::vector<DictEntry> entries;

  const Value* find(const Value& key) const;
  const Value* find(const String& key) const;
  /// False if the key is not hashable.
  bool set(const Value& key, Value value);

 private:
  int64_t find_index(const Value& key, uint64_t hash) const;
  void rehash();
  std::vector<uint32_t> index_;  // open addressing, entry + 1; empty while there are few
};

/// How deep functions that walk a value may go into it: lists of lists and the like. (JSON input is limited to 256.)
inline constexpr int max_nesting = 300;

/// Python's hash equality: 1 == 1.0 == True. False if unhashable.
bool hash_value(const Value& v, uint64_t* out, int depth = 0);
/// Equality of dict keys: scalars, strings and tuples of them.
bool keys_equal(const Value& a, const Value& b, int depth = 0);

struct View final : Object {
  enum class What : uint8_t { keys, values, items };
  View(Budget* budget_, Value dict_, What what_)
      : Object(Kind::view, budget_, sizeof(View)), dict(std::move(dict_)), what(what_) {}
  Value dict;
  What what;
};

struct Range final : Object {
  Range(Budget* budget_, int64_t start_, int64_t stop_, int64_t step_);
  int64_t start, stop, step, length;
  int64_t at(int64_t i) const { return start + i * step; }
};

/// A Python iterator or generator: yields once.
struct Iterator : Object {
  Iterator(Budget* budget_, const char* type_name_, size_t cost_)
      : Object(Kind::iterator, budget_, cost_), type_name(type_name_) {}
  virtual bool next(Evaluator& evaluator, Value* out) = 0;
  const char* type_name;
  bool is_generator = true;
};

struct Namespace final : Mutable {
  explicit Namespace(Budget* budget_) : Mutable(Kind::name_space, budget_, sizeof(Namespace)) {}
  void clear() override { attributes = Value(); }
  Value attributes;  // a dict of its own
};

struct Cycler final : Mutable {
  Cycler(Budget* budget_, std::vector<Value>&& items_)
      : Mutable(Kind::cycler, budget_, sizeof(Cycler)), items(std::move(items_)) {}
  void clear() override { items.clear(); }
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner final : Object {
  Joiner(Budget* budget_, Value separator_)
      : Object(Kind::joiner, budget_, sizeof(Joiner)), separator(std::move(separator_)) {}
  Value separator;
  bool used = false;
};

/// bytes; all there is to do with them is to print or decode them.
struct Bytes final : Object {
  Bytes(Budget* budget_, std::string&& data_, bool trusted_)
      : Object(Kind::bytes, budget_, sizeof(Bytes) + data_.size()), data(std::move(data_)), trusted(trusted_) {}
  std::string data;
  bool trusted;
};

inline Value Value::share(const String* string) { return share(static_cast<Object*>(const_cast<String*>(string))); }
inline const String& Value::string() const { return static_cast<const String&>(*u_.object); }
inline const List& Value::list() const { return static_cast<const List&>(*u_.object); }
inline const Dict& Value::dict() const { return static_cast<const Dict&>(*u_.object); }

/// Collects text with its trust. Every way of making text goes through here, so that no operation can lose the record.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(budget) {}
  ~TextBuilder() { budget_.live_bytes -= claimed_; }
  TextBuilder(const TextBuilder&) = delete;

  void append(std::string_view text, bool trusted) {
    if (text.empty()) return;
    mark(trusted);
    bytes_.append(text);
    if (bytes_.capacity() + ends_.capacity() * sizeof(TrustRun) > claimed_) grow();
    budget_.check_text(bytes_.size());
  }
  void append(const String& s) { append(s, 0, s.text.size()); }
  /// The bytes [begin, end) of s.
  void append(const String& s, size_t begin, size_t end);
  void append_repeated(std::string_view text, size_t n, bool trusted);

  size_t size() const { return bytes_.size(); }
  std::string_view text() const { return bytes_; }
  void clear() {
    bytes_.clear();
    ends_.clear();
  }
  void reserve(size_t n) { bytes_.reserve(n); }
  Budget& budget() { return budget_; }

  /// The text as a string value; the builder is empty afterwards.
  Value finish(bool markup = false);
  /// Calls f(text, trusted) for each run in turn.
  template <class F>
  void for_each_run(F&& f) const {
    size_t begin = 0;
    for (size_t i = 0; i < ends_.size(); ++i) {
      const size_t end = i + 1 < ends_.size() ? ends_[i].end : bytes_.size();
      if (end > begin) f(std::string_view(bytes_).substr(begin, end - begin), ends_[i].trusted);
      begin = end;
    }
  }

 private:
  void mark(bool trusted) {
    if (ends_.empty()) {
      ends_.push_back({0, trusted});
    } else if (ends_.back().trusted != trusted) {
      ends_.back().end = bytes_.size();
      ends_.push_back({0, trusted});
    }
  }
  void grow();

  Budget& budget_;
  std::string bytes_;
  std::vector<TrustRun> ends_;  // the last one is open: its end is not set
  size_t claimed_ = 0;          // bytes of both, charged to the budget
};

/// Python's name of a value's type: "str", "NoneType", ...
std::string type_name(const Value& v);
std::string type_name(Kind kind);

/// What went wrong, under Python's name for it. Becomes an Error with the template's line at the edge of rendering.
struct PyError {
  const char* type;
  std::string message;
};
[[noreturn]] void raise(const char* type, std::string message);
[[noreturn]] void raise_type_error(std::string message);
[[noreturn]] void raise_value_error(std::string message);
[[noreturn]] void raise_too_nested();
[[noreturn]] void raise_undefined(const Value& undefined);

}  // namespace engine::jinja
