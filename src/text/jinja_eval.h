// One rendering of a template: walks the tree. Not shared between threads.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja.h"
#include "text/jinja_ast.h"
#include "text/jinja_builtins.h"

namespace engine::jinja {

/// What a rendering may take of the stack; leaves room on the smallest one a thread may have here (2 MB).
inline constexpr ptrdiff_t max_stack_bytes = ptrdiff_t{1} << 20;

/// The variables of a running function. Closures keep it alive.
struct Frame final : Mutable {
  Frame(Budget* budget_, int n_slots, Frame* parent_)
      : Mutable(Kind::frame, budget_, sizeof(Frame) + static_cast<size_t>(n_slots) * sizeof(Value)),
        slots(static_cast<size_t>(n_slots)),
        parent(parent_) {
    if (parent != nullptr) retain(parent);
  }
  ~Frame() override {
    if (parent != nullptr) release(parent);
  }
  void clear() override { slots.assign(slots.size(), Value()); }
  std::vector<Value> slots;
  Frame* parent;
};

/// A counted pointer to a frame.
class FrameRef {
 public:
  explicit FrameRef(Frame* frame) : value_(Value::share(frame)) {}
  static FrameRef create(Budget* budget, int n_slots, Frame* parent) {
    return FrameRef(Value::adopt(new Frame(budget, n_slots, parent)));
  }
  Frame* get() const { return &value_.as<Frame>(); }

 private:
  explicit FrameRef(Value frame) : value_(std::move(frame)) {}
  Value value_;
};

/// Walks anything Python can iterate over, without copying it.
class Iter {
 public:
  /// Raises TypeError if `v` is not iterable.
  Iter(Evaluator& evaluator, Value v);
  bool next(Evaluator& evaluator, Value* out);
  /// The number of items in all, if it is known without walking.
  std::optional<size_t> length() const;

 private:
  Value value_;
  size_t position_ = 0;
};

/// `loop` inside a for statement.
struct Loop final : Mutable {
  Loop(Budget* budget_, Evaluator& evaluator, Value iterable, int depth0_, const Stmt* statement_, Frame* home_)
      : Mutable(Kind::loop, budget_, sizeof(Loop)),
        source(iterable),
        iter(evaluator, std::move(iterable)),
        depth0(depth0_),
        statement(statement_),
        home(Value::share(home_)) {}
  void clear() override;

  bool advance(Evaluator& evaluator, Value* out);
  /// The item after this one, missing at the end.
  const Value& peek(Evaluator& evaluator);
  int64_t length(Evaluator& evaluator);

  Value source;
  Iter iter;
  int64_t index0 = -1;
  int64_t n_items = -1;  // unknown
  bool peeked = false;
  Value after, current, before, last_changed;
  int depth0;
  const Stmt* statement;
  Value home;  // the frame the statement belongs to, for loop(...) in recursive loops
};

struct Macro final : Object {
  Macro(Budget* budget_, const Function* function_, const Stmt* statement_, Frame* closure_)
      : Object(Kind::macro, budget_, sizeof(Macro)), function(function_), statement(statement_), closure(closure_) {}
  const Function* function;
  const Stmt* statement;
  FrameRef closure;
};

/// A global function, or a method bound to its object.
struct Callable final : Object {
  Callable(Budget* budget_, Kind kind_, const Builtin* builtin_, Value self_)
      : Object(kind_, budget_, sizeof(Callable)), builtin(builtin_), self(std::move(self_)) {}
  const Builtin* builtin;
  Value self;
};

/// self.name
struct BlockReference final : Object {
  BlockReference(Budget* budget_, const Stmt* statement_)
      : Object(Kind::block, budget_, sizeof(BlockReference)), statement(statement_) {}
  const Stmt* statement;  // null: `self` itself
};

class Evaluator {
 public:
  Evaluator(const Ast& ast, const JinjaTemplate::Options& options);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;

  /// Throws Error.
  std::vector<TextSpan> render(const JinjaTemplate::Variables& context);

  // --- for builtins
  // ----------------------------------------------------------------------------------------------------
  Budget budget;

  /// New values of this rendering.
  Value text(std::string s, bool trusted);
  Value list(std::vector<Value> items) { return Value::adopt(new List(&budget, std::move(items))); }
  Value tuple(std::vector<Value> items) { return Value::adopt(new List(&budget, std::move(items), Kind::tuple)); }
  Dict* new_dict() { return new Dict(&budget); }
  Value undefined_hint(std::string_view hint);
  Value generator(const char* type_name, std::function<bool(Evaluator&, Value*)> next);

  /// str(v), repr(v)
  void append_str(TextBuilder& out, const Value& v);
  void append_repr(TextBuilder& out, const Value& v, int depth = 0);
  Value to_str(const Value& v);
  /// str(v) as bytes without their trust: for names, separators and messages.
  std::string plain(const Value& v);

  bool truthy(const Value& v);
  bool equal(const Value& a, const Value& b, int depth = 0);
  /// a < b, or TypeError.
  bool less(const Value& a, const Value& b, int depth = 0);
  bool contains(const Value& container, const Value& item);
  /// len(v), or TypeError.
  int64_t length(const Value& v);
  bool is_iterable(const Value& v) const;
  std::vector<Value> items(const Value& v);

  Value binary(ExprType op, const Value& a, const Value& b);
  Value negate(const Value& v);
  Value attribute(const Value& object, const String& name);
  Value item(const Value& object, const Value& key);
  Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);

  Value call(const Value& callee, CallArgs& args);
  Value call_builtin(const Builtin& builtin, const Value& self, CallArgs& args);
  /// By name, as the map and select filters do.
  Value call_filter(const Value& name, const Value& v, CallArgs& args);
  bool call_test(const Value& name, const Value& v, CallArgs& args);

  /// Python's int(x) for an argument; booleans count. TypeError naming what it is for.
  int64_t index_argument(const Value& v);
  /// Guards recursive walks in builtins.
  void check_stack() const {
    if (stack_top_ - static_cast<const char*>(__builtin_frame_address(0)) > max_stack_bytes) [[unlikely]]
      raise_too_nested();
  }

  const std::string& now() const { return options_.now; }

 private:
  enum class Flow : uint8_t { normal, break_, continue_ };
  struct Capture;
  struct CallDepth;
  friend struct Loop;
  friend class FilterIterator;

  Flow exec(const std::vector<Stmt*>& body);
  Flow exec(const Stmt& s);
  Flow exec_if(const Stmt& s);
  Flow exec_for(const Stmt& s);
  Flow run_loop(const Stmt& s, Value iterable, int depth0, Frame* home);
  Flow exec_else(const Stmt& s);
  Flow exec_set_block(const Stmt& s);
  Flow exec_filter_block(const Stmt& s);
  Flow exec_with(const Stmt& s);
  void exec_macro(const Stmt& s);
  void exec_call_block(const Stmt& s);
  void exec_set(const Stmt& s);
  Value call_block(const Stmt& s);

  void enter(const Scope& scope);
  void leave(const Scope& scope);
  void assign(const Expr& target, Value v);
  void check_namespaces(const Expr& target);
  void export_target(const Expr& target);
  Value resolve(const String& name);
  Value& slot(const VarRef& ref) {
    Frame* f = frame_;
    for (int i = ref.hops; i > 0; --i) f = f->parent;
    return f->slots[static_cast<size_t>(ref.slot)];
  }

  Value eval(const Expr& e);
  Value eval_name(const Expr& e);
  Value eval_list(const Expr& e);
  Value eval_dict(const Expr& e);
  Value eval_concat(const Expr& e);
  Value eval_compare(const Expr& e);
  Value eval_filter(const Expr& e, const Value* input);
  Value eval_test(const Expr& e);
  Value eval_call(const Expr& e, const Value* caller);
  Value eval_slice(const Expr& e);
  Value eval_add(const Expr& e);
  bool compare(CompareOp op, const Value& a, const Value& b);
  void eval_arguments(const Arguments& from, CallArgs* to);
  void print(const Expr& e);

  Value call_macro(const Macro& macro, CallArgs& args);
  Value call_loop(const Loop& loop, CallArgs& args);
  Value run_recursive_loop(const Stmt& s, Value iterable, int depth0, Frame* home);
  Value loop_attribute(Loop& loop, const String& name);
  Value own_attribute(const Value& object, const String& name);
  Value undefined_attribute(const Value& object, const String& name);

  void append_container(TextBuilder& out, const std::vector<Value>& items, std::string_view open,
                        std::string_view close, int depth);
  Value add(const Value& a, const Value& b);
  Value multiply(const Value& a, const Value& b);
  Value arithmetic(ExprType op, const Value& a, const Value& b);
  [[noreturn]] void raise_operand_types(std::string_view op, const Value& a, const Value& b);

  Value from_json(const Json& json, bool trusted, int depth);
  Value from_message(const Json& message);

  const Ast& ast_;
  const JinjaTemplate::Options& options_;
  Frame* frame_ = nullptr;
  TextBuilder* out_ = nullptr;
  Value context_;            // a dict
  Value exports_;            // a dict, if the template has blocks
  const Value caller_name_;  // "caller"
  int calls_ = 0;
  int line_ = 1;
  const char* stack_top_ = nullptr;
};

/// Code-point slices of a string with its trust. `begin`, `end`: bytes.
Value substring(Budget& budget, const Value& s, size_t begin, size_t end);
/// markupsafe.escape: & < > ' " as entities.
void append_escaped(TextBuilder& out, const String& s);
/// Python's repr(float).
std::string float_repr(double d);
/// str % values, str.format(...), and format(value, spec).
Value format_percent(Evaluator& ev, const Value& format, const Value& values);
Value format_braces(Evaluator& ev, const Value& format, const std::vector<Value>& args, const Value& named);
/// json.dumps
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
void append_json(Evaluator& ev, TextBuilder& out, const Value& v, const JsonStyle& style, int depth = 0);
/// datetime.strftime in the C locale of an ISO date-time; empty: now.
std::string format_time(std::string_view format, std::string_view iso_now);

}  // namespace engine::jinja
