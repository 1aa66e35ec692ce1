// Statements.
#include "text/jinja_eval.h"

#include "base/error.h"
#include "text/jinja_unicode.h"

namespace engine::jinja {

/// Collects output somewhere else for as long as it lives.
struct Evaluator::Capture {
  explicit Capture(Evaluator& ev_) : ev(ev_), text(ev_.budget), saved(ev_.out_) { ev.out_ = &text; }
  ~Capture() { ev.out_ = saved; }
  Value finish() { return text.finish(); }
  Evaluator& ev;
  TextBuilder text;
  TextBuilder* saved;
};

/// Runs in another frame, one call deeper.
struct Evaluator::CallDepth {
  CallDepth(Evaluator& ev_, Frame* frame) : ev(ev_), saved(ev_.frame_) {
    if (++ev.calls_ > ev.options_.limits.max_depth) raise("RecursionError", "maximum recursion depth exceeded");
    ev.frame_ = frame;
  }
  ~CallDepth() {
    ev.frame_ = saved;
    --ev.calls_;
  }
  Evaluator& ev;
  Frame* saved;
};

/// The items of a for statement that pass its `if`. Lazy, as in Python: the test of an item runs after the body of the
/// one before.
class FilterIterator final : public Iterator {
 public:
  FilterIterator(Evaluator& ev, Value source, const Stmt& s, Frame* frame)
      : Iterator(&ev.budget, "generator", sizeof(FilterIterator)),
        source_(ev, std::move(source)),
        statement_(s),
        frame_(frame) {}

  bool next(Evaluator& ev, Value* out) override {
    Evaluator::CallDepth depth(ev, frame_.get());
    if (!entered_) ev.enter(statement_.test_scope);
    entered_ = true;
    while (source_.next(ev, out)) {
      ev.budget.spend(1);
      ev.assign(*statement_.test_target, *out);
      if (ev.truthy(ev.eval(*statement_.test))) return true;
    }
    return false;
  }

 private:
  Iter source_;
  const Stmt& statement_;
  FrameRef frame_;
  bool entered_ = false;
};

// --- the rendering
// ----------------------------------------------------------------------------------------------------

static Budget budget_for(const JinjaLimits& limits) {
  Budget budget;
  budget.steps_left = limits.max_steps;
  budget.max_text_bytes = limits.max_output_bytes;
  budget.max_live_bytes = limits.max_output_bytes * 4;
  budget.max_items = limits.max_range;
  return budget;
}

Evaluator::Evaluator(const Ast& ast, const JinjaTemplate::Options& options)
    : budget(budget_for(options.limits)), ast_(ast), options_(options), caller_name_(text("caller", true)) {}

Evaluator::~Evaluator() {
  context_ = Value();
  exports_ = Value();
  budget.clear_mutables();
}

std::vector<TextSpan> Evaluator::render(const JinjaTemplate::Variables& context) {
  stack_top_ = static_cast<const char*>(__builtin_frame_address(0));
  try {
    Dict* variables = new_dict();
    context_ = Value::adopt(variables);
    for (const auto& [name, value] : context) {
      bool trusted = false;
      for (const std::string& own : options_.trusted_variables) trusted |= own == name;
      const Value key = text(std::string(name), trusted);
      if (name == "messages" && value->is_array()) {
        std::vector<Value> messages;
        for (const Json& message : *value) messages.push_back(from_message(message));
        variables->set(key, list(std::move(messages)));
      } else {
        variables->set(key, from_json(*value, trusted, 0));
      }
    }
    if (ast_.has_blocks) exports_ = Value::adopt(new_dict());

    TextBuilder out(budget);
    out_ = &out;
    const FrameRef frame = FrameRef::create(&budget, ast_.root.n_slots, nullptr);
    frame_ = frame.get();
    enter(ast_.scope);
    exec(ast_.body);
    std::vector<TextSpan> spans;
    out.for_each_run([&](std::string_view run, bool trusted) { spans.push_back({std::string(run), trusted}); });
    return spans;
  } catch (const PyError& e) {
    throw Error("chat template: line " + std::to_string(line_) + ": " + e.type + ": " + e.message);
  }
}

/// A message is untrusted but for a role that is one of the known words.
Value Evaluator::from_message(const Json& message) {
  Value v = from_json(message, false, 1);
  if (!message.is_object()) return v;
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) return v;
  for (const std::string& word : options_.trusted_roles) {
    if (word == role->get_ref<const std::string&>()) v.as<Dict>().set(text("role", false), text(word, true));
  }
  return v;
}

Value Evaluator::from_json(const Json& json, bool trusted, int depth) {
  if (depth > max_nesting) raise_too_nested();
  budget.spend(1);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>(), trusted);
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>(), trusted);
    case Json::value_t::number_unsigned: {
      const auto u = json.get<uint64_t>();
      return u > static_cast<uint64_t>(INT64_MAX) ? Value::big_uint(u, trusted)
                                                  : Value::integer(static_cast<int64_t>(u), trusted);
    }
    case Json::value_t::number_float:
      return Value::real(json.get<double>(), trusted);
    case Json::value_t::string: {
      const auto& s = json.get_ref<const std::string&>();
      if (!utf8_valid(s)) return text(utf8_sanitize(s), trusted);
      return Value::adopt(
          new String(&budget, std::string_view(s), trusted));  // the caller's JSON outlives the rendering
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(item, trusted, depth + 1));
      return list(std::move(items));
    }
    case Json::value_t::object: {
      Dict* dict = new_dict();
      Value v = Value::adopt(dict);
      dict->entries.reserve(json.size());
      for (const auto& [key, value] : json.items()) dict->set(text(key, trusted), from_json(value, trusted, depth + 1));
      return v;
    }
    default:
      return Value::none(trusted);
  }
}

// --- scopes
// -------------------------------------------------------------------------------------------------------------

void Evaluator::enter(const Scope& scope) {
  for (const ScopeLoad& load : scope.loads) {
    Value v;
    if (load.from == ScopeLoad::From::context)
      v = resolve(*load.name);
    else if (load.from == ScopeLoad::From::alias)
      v = slot(load.source);
    frame_->slots[static_cast<size_t>(load.slot)] = std::move(v);
  }
}

void Evaluator::leave(const Scope& scope) {
  for (const int slot : scope.slots) frame_->slots[static_cast<size_t>(slot)] = Value();
}

Value Evaluator::resolve(const String& name) {
  if (!exports_.is_missing()) {
    if (const Value* v = exports_.dict().find(name)) return *v;
  }
  if (const Value* v = context_.dict().find(name)) return *v;
  if (const Builtin* f = find_global(name.text)) return Value::adopt(new Callable(&budget, Kind::function, f, Value()));
  if (name.text == "self") return Value::adopt(new BlockReference(&budget, nullptr));
  return Value();
}

void Evaluator::assign(const Expr& target, Value v) {
  if (target.type == ExprType::name) {
    slot(target.ref) = std::move(v);
    return;
  }
  if (target.type == ExprType::namespace_ref) {
    const Value& ns = slot(target.ref);
    if (!ns.is(Kind::name_space)) raise("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
    ns.as<Namespace>().attributes.as<Dict>().set(Value::share(target.field), std::move(v));
    return;
  }
  if (!is_iterable(v)) raise_type_error("cannot unpack non-iterable " + type_name(v) + " object");
  const size_t n = target.items.size();
  Iter iter(*this, v);
  Value item;
  for (size_t i = 0; i < n; ++i) {
    if (!iter.next(*this, &item))
      raise_value_error("not enough values to unpack (expected " + std::to_string(n) + ", got " + std::to_string(i) +
                        ")");
    assign(*target.items[i], std::move(item));
  }
  if (iter.next(*this, &item)) raise_value_error("too many values to unpack (expected " + std::to_string(n) + ")");
}

/// Jinja checks that `ns` in `ns.attribute` is a namespace before it evaluates the right side.
void Evaluator::check_namespaces(const Expr& target) {
  if (target.type == ExprType::namespace_ref && !slot(target.ref).is(Kind::name_space))
    raise("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
  for (const Expr* item : target.items) check_namespaces(*item);
}

void Evaluator::export_target(const Expr& target) {
  if (target.type == ExprType::name) exports_.as<Dict>().set(Value::share(target.name), slot(target.ref));
  for (const Expr* item : target.items) export_target(*item);
}

// --- statements
// -----------------------------------------------------------------------------------------------------------

Evaluator::Flow Evaluator::exec(const std::vector<Stmt*>& body) {
  for (const Stmt* s : body) {
    const Flow flow = exec(*s);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Evaluator::Flow Evaluator::exec(const Stmt& s) {
  budget.spend(1);
  check_stack();
  line_ = s.line;
  switch (s.type) {
    case StmtType::text:
      out_->append(*s.text);
      break;
    case StmtType::output:
      for (const Expr* e : s.exprs) print(*e);
      break;
    case StmtType::if_:
      return exec_if(s);
    case StmtType::for_:
      return exec_for(s);
    case StmtType::set:
      exec_set(s);
      break;
    case StmtType::set_block:
      return exec_set_block(s);
    case StmtType::macro:
      exec_macro(s);
      break;
    case StmtType::call_block:
    case StmtType::generation:
      exec_call_block(s);
      break;
    case StmtType::filter_block:
      return exec_filter_block(s);
    case StmtType::with:
      return exec_with(s);
    case StmtType::break_:
      return Flow::break_;
    case StmtType::continue_:
      return Flow::continue_;
    case StmtType::block:
      append_str(*out_, call_block(s));
      break;
    case StmtType::loader:
      raise_type_error("no loader for this environment specified ('" + std::string(s.text->text) + "')");
  }
  return Flow::normal;
}

void Evaluator::print(const Expr& e) { append_str(*out_, eval(e)); }

Evaluator::Flow Evaluator::exec_if(const Stmt& s) {
  for (const Branch& b : s.branches) {
    if (b.test == nullptr || truthy(eval(*b.test))) return exec(b.body);
  }
  return Flow::normal;
}

void Evaluator::exec_set(const Stmt& s) {
  check_namespaces(*s.target);
  assign(*s.target, eval(*s.expr));
  if (s.exported) export_target(*s.target);
}

Evaluator::Flow Evaluator::exec_set_block(const Stmt& s) {
  enter(s.scope);
  Value v;
  {
    Capture capture(*this);
    const Flow flow = exec(s.body);
    if (flow != Flow::normal) return flow;
    v = capture.finish();
  }
  check_namespaces(*s.target);
  if (s.expr != nullptr) v = eval_filter(*s.expr, &v);
  assign(*s.target, std::move(v));
  leave(s.scope);
  if (s.exported) export_target(*s.target);
  return Flow::normal;
}

Evaluator::Flow Evaluator::exec_filter_block(const Stmt& s) {
  enter(s.scope);
  Value v;
  {
    Capture capture(*this);
    const Flow flow = exec(s.body);
    if (flow != Flow::normal) return flow;
    v = capture.finish();
  }
  append_str(*out_, eval_filter(*s.expr, &v));
  leave(s.scope);
  return Flow::normal;
}

Evaluator::Flow Evaluator::exec_with(const Stmt& s) {
  enter(s.scope);
  for (size_t i = 0; i < s.exprs.size(); ++i) assign(*s.exprs[i], eval(*s.values[i]));
  const Flow flow = exec(s.body);
  leave(s.scope);
  return flow;
}

Evaluator::Flow Evaluator::exec_for(const Stmt& s) {
  Value iterable = eval(*s.expr);
  if (!s.recursive) return run_loop(s, std::move(iterable), 0, frame_);
  append_str(*out_, run_recursive_loop(s, std::move(iterable), 0, frame_));
  return Flow::normal;
}

/// loop(iterable) in a recursive loop: its body again, one level down, as text.
Value Evaluator::call_loop(const Loop& loop, CallArgs& args) {
  if (!loop.statement->recursive)
    raise_type_error("The loop must have the 'recursive' marker to be called recursively.");
  if (args.positional.size() != 1 || !args.named.empty()) raise_type_error("loop() takes exactly one argument");
  return run_recursive_loop(*loop.statement, args.positional[0], loop.depth0 + 1, &loop.home.as<Frame>());
}

Value Evaluator::run_recursive_loop(const Stmt& s, Value iterable, int depth0, Frame* home) {
  const FrameRef frame = FrameRef::create(&budget, s.function->n_slots, home);
  CallDepth depth(*this, frame.get());
  Capture capture(*this);
  run_loop(s, std::move(iterable), depth0, home);
  return capture.finish();
}

Evaluator::Flow Evaluator::run_loop(const Stmt& s, Value iterable, int depth0, Frame* home) {
  if (s.test != nullptr) {
    if (!is_iterable(iterable)) raise_type_error("'" + type_name(iterable) + "' object is not iterable");
    iterable = Value::adopt(new FilterIterator(*this, std::move(iterable), s, frame_));
  }
  // Jinja's quirk: a turn that ends in break or continue does not count against `else`.
  bool any_turn = false;
  Value item;
  // Returns false to stop.
  const auto turn = [&]() {
    budget.spend(1);
    assign(*s.target, std::move(item));
    enter(s.scope);
    const Flow flow = exec(s.body);
    any_turn |= flow == Flow::normal;
    return flow != Flow::break_;
  };
  if (s.extended) {
    auto* loop = new Loop(&budget, *this, std::move(iterable), depth0, &s, home);
    const Value holder = Value::adopt(loop);
    while (loop->advance(*this, &item)) {
      frame_->slots[static_cast<size_t>(s.loop_slot)] = holder;
      if (!turn()) break;
    }
  } else {
    Iter iter(*this, std::move(iterable));
    while (iter.next(*this, &item)) {
      if (!turn()) break;
    }
  }
  leave(s.scope);
  return any_turn || s.else_body.empty() ? Flow::normal : exec_else(s);
}

Evaluator::Flow Evaluator::exec_else(const Stmt& s) {
  enter(s.else_scope);
  const Flow flow = exec(s.else_body);
  leave(s.else_scope);
  return flow;
}

void Evaluator::exec_macro(const Stmt& s) {
  slot(s.ref) = Value::adopt(new Macro(&budget, s.function.get(), &s, frame_));
  if (s.exported) export_target(*s.target);
}

void Evaluator::exec_call_block(const Stmt& s) {
  const Value caller = Value::adopt(new Macro(&budget, s.function.get(), &s, frame_));
  if (s.type == StmtType::generation) {
    CallArgs none;
    append_str(*out_, call(caller, none));
  } else {
    append_str(*out_, eval_call(*s.expr, &caller));
  }
}

Value Evaluator::call_block(const Stmt& s) {
  const FrameRef frame = FrameRef::create(&budget, s.function->n_slots, nullptr);
  CallDepth depth(*this, frame.get());
  Capture capture(*this);
  enter(s.scope);
  exec(s.body);
  return capture.finish();
}

// --- macros
// ---------------------------------------------------------------------------------------------------------------

/// Binds arguments as jinja2.runtime.Macro does, then runs the body.
Value Evaluator::call_macro(const Macro& macro, CallArgs& args) {
  const Function& f = *macro.function;
  const size_t n = f.parameters.size();
  const FrameRef frame_ref = FrameRef::create(&budget, f.n_slots, macro.closure.get());
  Frame& frame = *frame_ref.get();
  const std::string name = f.name != nullptr ? std::string(f.name->text) : std::string("caller");
  const auto take = [&](std::string_view key) {
    for (size_t i = 0; i < args.named.size(); ++i) {
      if (args.named[i].first.string().text != key) continue;
      Value v = std::move(args.named[i].second);
      args.named.erase(args.named.begin() + static_cast<ptrdiff_t>(i));
      return v;
    }
    return Value();
  };

  std::vector<Value> bound(n);
  for (size_t i = 0; i < n; ++i)
    bound[i] = i < args.positional.size() ? args.positional[i] : take(f.parameters[i]->name->text);
  Value caller;
  if (f.caller_slot >= 0) {
    caller = take("caller");
    if (caller.is_missing() || caller.is_none()) caller = undefined_hint("No caller defined");
  }
  if (f.kwargs_slot < 0 && !args.named.empty())
    raise_type_error("macro '" + name + "' takes no keyword argument '" + plain(args.named[0].first) + "'");
  if (f.varargs_slot < 0 && args.positional.size() > n)
    raise_type_error("macro '" + name + "' takes not more than " + std::to_string(n) + " argument(s)");

  CallDepth depth(*this, &frame);
  enter(macro.statement->scope);
  if (f.caller_slot >= 0) frame.slots[static_cast<size_t>(f.caller_slot)] = std::move(caller);
  if (f.kwargs_slot >= 0) {
    Dict* kwargs = new_dict();
    frame.slots[static_cast<size_t>(f.kwargs_slot)] = Value::adopt(kwargs);
    for (auto& [key, value] : args.named) kwargs->set(key, std::move(value));
  }
  if (f.varargs_slot >= 0) {
    std::vector<Value> rest;
    for (size_t i = n; i < args.positional.size(); ++i) rest.push_back(std::move(args.positional[i]));
    frame.slots[static_cast<size_t>(f.varargs_slot)] = tuple(std::move(rest));
  }
  for (size_t i = 0; i < n; ++i) frame.slots[static_cast<size_t>(f.parameters[i]->ref.slot)] = bound[i];
  for (size_t i = 0; i < n; ++i) {
    if (!bound[i].is_missing()) continue;
    const size_t first_default = n - f.defaults.size();
    frame.slots[static_cast<size_t>(f.parameters[i]->ref.slot)] =
        i >= first_default ? eval(*f.defaults[i - first_default])
                           : Value::undefined(UndefinedWhy::parameter, f.parameters[i]->name);
  }
  const int line = line_;
  Capture capture(*this);
  exec(macro.statement->body);
  line_ = line;
  return capture.finish();
}

// --- loop
// -----------------------------------------------------------------------------------------------------------------

void Loop::clear() { source = after = current = before = last_changed = home = Value(); }

bool Loop::advance(Evaluator& ev, Value* out) {
  Value item;
  if (peeked && !after.is_missing()) {
    item = std::move(after);
    after = Value();
    peeked = false;
  } else if (!iter.next(ev, &item)) {
    return false;
  } else {
    peeked = false;
  }
  ++index0;
  before = std::move(current);
  current = item;
  *out = std::move(item);
  return true;
}

const Value& Loop::peek(Evaluator& ev) {
  if (!peeked || after.is_missing()) {
    Value item;
    if (iter.next(ev, &item))
      after = std::move(item);
    else
      after = Value();
    peeked = true;
  }
  return after;
}

int64_t Loop::length(Evaluator& ev) {
  if (n_items >= 0) return n_items;
  if (const auto n = iter.length()) {
    n_items = static_cast<int64_t>(*n);
    return n_items;
  }
  // A generator: what is left is taken out of it and kept.
  std::vector<Value> rest;
  Value item;
  while (iter.next(ev, &item)) {
    ev.budget.spend(1);
    ev.budget.check_items(rest.size());
    rest.push_back(std::move(item));
  }
  n_items = static_cast<int64_t>(rest.size()) + index0 + 1 + (after.is_missing() ? 0 : 1);
  iter = Iter(ev, ev.list(std::move(rest)));
  return n_items;
}

}  // namespace engine::jinja
