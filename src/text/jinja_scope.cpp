// Binds names to slots the way Jinja's compiler turns them into Python variables (jinja2/idtracking.py and
// compiler.py): a scope resolves the names it uses when it is entered, loop bodies see the outer variable afresh in
// every turn, macros see their surroundings by reference. Templates rely on each of these.
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "text/jinja_ast.h"
#include "text/jinja_builtins.h"
#include "text/jinja_lexer.h"

namespace engine::jinja {

namespace {

struct Ident {
  Function* function = nullptr;
  int slot = -1;
};

/// The names of one scope. jinja2's class Symbols, with its branch bookkeeping reduced to what it amounts to: a name
/// that is stored under an `if` starts out as what it was outside, any other as undefined.
class Symbols {
 public:
  Symbols(Symbols* parent, Function* function, std::string prefix = {})
      : parent_(parent),
        function_(function),
        level_(parent == nullptr ? 0 : parent->level_ + 1),
        prefix_(std::move(prefix)) {}

  Function* function() const { return function_; }

  void load(const String* name) {
    if (find(name).function == nullptr) define(name, {ScopeLoad::From::context, -1, {}, name});
  }
  void store(const String* name, bool in_branch) {
    if (!stores_.insert(name).second) return;
    const bool known = refs_.count(name) != 0;
    if (known && !in_branch) return;
    const Ident outer = parent_ != nullptr ? parent_->find(name) : Ident{};
    if (outer.function != nullptr)
      define(name, {ScopeLoad::From::alias, -1, reference(outer), nullptr});
    else if (in_branch)
      define(name, {ScopeLoad::From::context, -1, {}, name});
    else
      define(name, {ScopeLoad::From::nothing, -1, {}, nullptr});
  }
  int declare_parameter(const String* name) {
    stores_.insert(name);
    const int slot = slot_of(name);
    refs_[name] = {function_, slot};
    loads_.erase(slot);
    parameters_.insert(slot);
    return slot;
  }
  VarRef ref(const String* name) {
    Ident ident = find(name);
    if (ident.function ==
        nullptr) {  // used only where Jinja's analysis does not look (the arguments of a set block's filter)
      load(name);
      ident = find(name);
    }
    return reference(ident);
  }
  Scope scope() const {
    Scope scope;
    for (const auto& [slot, load] : loads_) {
      scope.loads.push_back(load);
      scope.slots.push_back(slot);
    }
    for (const int slot : parameters_) scope.slots.push_back(slot);
    return scope;
  }

 private:
  Ident find(const String* name) const {
    for (const Symbols* s = this; s != nullptr; s = s->parent_) {
      const auto it = s->refs_.find(name);
      if (it != s->refs_.end()) return it->second;
    }
    return {};
  }
  VarRef reference(const Ident& ident) const {
    int hops = 0;
    for (const Function* f = function_; f != ident.function; f = f->parent) ++hops;
    return {hops, ident.slot};
  }
  int slot_of(const String* name) {
    const std::string key = prefix_ + std::to_string(level_) + "_" + std::string(name->text);
    const auto [it, added] = function_->slot_names.try_emplace(key, function_->n_slots);
    if (added) ++function_->n_slots;
    return it->second;
  }
  void define(const String* name, ScopeLoad load) {
    load.slot = slot_of(name);
    refs_[name] = {function_, load.slot};
    loads_[load.slot] = load;
    parameters_.erase(load.slot);
  }

  Symbols* parent_;
  Function* function_;
  int level_;
  std::string prefix_;
  std::unordered_map<const String*, Ident> refs_;
  std::map<int, ScopeLoad> loads_;
  std::unordered_set<int> parameters_;
  std::unordered_set<const String*> stores_;
};

// --- what a scope uses (FrameSymbolVisitor)
// -------------------------------------------------------------------------------

template <class F>
void for_each_part(const Expr& e, F&& f) {
  for (Expr* part : {e.a, e.b, e.c, e.d}) {
    if (part != nullptr) f(*part);
  }
  for (Expr* part : e.items) f(*part);
  for (Expr* part : e.args.positional) f(*part);
  for (const Keyword& k : e.args.named) f(*k.value);
  if (e.args.star != nullptr) f(*e.args.star);
  if (e.args.star_star != nullptr) f(*e.args.star_star);
}

void note(Symbols& symbols, const Expr* e, bool in_branch, bool as_parameter = false) {
  if (e == nullptr) return;
  if (e->type == ExprType::name) {
    if (as_parameter || e->parameter)
      symbols.declare_parameter(e->name);
    else if (e->store)
      symbols.store(e->name, in_branch);
    else
      symbols.load(e->name);
    return;
  }
  if (e->type == ExprType::namespace_ref) {
    symbols.load(e->name);
    return;
  }
  for_each_part(*e, [&](const Expr& part) { note(symbols, &part, in_branch, as_parameter); });
}

void note(Symbols& symbols, const std::vector<Stmt*>& body, bool in_branch = false) {
  for (const Stmt* s : body) {
    switch (s->type) {
      case StmtType::output:
        for (const Expr* e : s->exprs) note(symbols, e, in_branch);
        break;
      case StmtType::set:
        note(symbols, s->expr, in_branch);
        note(symbols, s->target, in_branch);
        break;
      case StmtType::set_block:
      case StmtType::macro:
        note(symbols, s->target, in_branch);
        break;
      case StmtType::for_:
      case StmtType::call_block:
      case StmtType::filter_block:
        note(symbols, s->expr, in_branch);
        break;
      case StmtType::with:
        for (const Expr* e : s->values) note(symbols, e, in_branch);
        break;
      case StmtType::if_:
        for (const Branch& b : s->branches) {
          note(symbols, b.test, in_branch);
          note(symbols, b.body, true);
        }
        break;
      case StmtType::text:
      case StmtType::generation:
      case StmtType::break_:
      case StmtType::continue_:
      case StmtType::block:
      case StmtType::loader:
        break;
    }
  }
}

// --- special names (UndeclaredNameVisitor)
// --------------------------------------------------------------------------------

enum class Seen { no, read, stored };

Seen first_use(const Expr* e, std::string_view name) {
  if (e == nullptr) return Seen::no;
  if (e->type == ExprType::name) return e->name->text != name ? Seen::no : e->store ? Seen::stored : Seen::read;
  Seen seen = Seen::no;
  for_each_part(*e, [&](const Expr& part) {
    if (seen == Seen::no) seen = first_use(&part, name);
  });
  return seen;
}

/// Whether `name` is read in the body before it is assigned, nested macros and loops included.
Seen first_use(const std::vector<Stmt*>& body, std::string_view name) {
  Seen seen = Seen::no;
  const auto look = [&](const auto& part) { return seen != Seen::no || (seen = first_use(part, name)) != Seen::no; };
  const auto look_all = [&](const std::vector<Expr*>& parts) {
    for (const Expr* e : parts) {
      if (look(e)) return true;
    }
    return false;
  };
  for (const Stmt* s : body) {
    if (s->type == StmtType::block) continue;
    if (s->type != StmtType::macro && look(s->target)) return seen;
    if (s->type != StmtType::filter_block && look(s->expr)) return seen;
    if (s->function != nullptr && (look_all(s->function->parameters) || look_all(s->function->defaults))) return seen;
    if (look_all(s->exprs) || look_all(s->values)) return seen;
    for (const Branch& b : s->branches) {
      if (look(b.test) || look(b.body)) return seen;
    }
    if (look(s->body) || look(s->else_body) || look(s->test)) return seen;
    if (s->type == StmtType::filter_block && look(s->expr)) return seen;
  }
  return seen;
}

bool reads(const std::vector<Stmt*>& body, std::string_view name) { return first_use(body, name) == Seen::read; }

// --- binding
// --------------------------------------------------------------------------------------------------------------

/// What surrounds the code being bound.
struct Place {
  Symbols* symbols;
  bool top_level = false;
  bool soft = false;     // under an `if`: unknown filters and tests fail when they are reached, not before
  bool in_loop = false;  // of the same function, so that break and continue have a target
  bool in_for = false;   // `loop` may not be assigned
};

class Binder {
 public:
  explicit Binder(Ast& ast) : ast_(ast) {}

  void run() {
    Symbols symbols(nullptr, &ast_.root);
    note(symbols, ast_.body);
    Place place{&symbols};
    place.top_level = true;
    bind(ast_.body, place);
    ast_.scope = symbols.scope();
  }

 private:
  void bind(const std::vector<Stmt*>& body, const Place& place) {
    for (Stmt* s : body) bind(*s, place);
  }

  void bind(Stmt& s, const Place& place) {
    switch (s.type) {
      case StmtType::text:
        break;
      case StmtType::output:
        bind_all(s.exprs, place);
        break;
      case StmtType::set:
        bind(s.target, place);
        bind(s.expr, place);
        s.exported = place.top_level && ast_.has_blocks;
        break;
      case StmtType::if_: {
        Place inside = place;
        inside.soft = true;
        for (Branch& b : s.branches) {
          bind(b.test, place);
          bind(b.body, inside);
        }
        break;
      }
      case StmtType::for_:
        bind_for(s, place);
        break;
      case StmtType::set_block: {
        Symbols symbols(place.symbols, place.symbols->function());
        note(symbols, s.body);
        const Place inside = inner(place, symbols);
        bind(s.body, inside);
        bind(s.target, place);
        bind(s.expr, inside);
        s.scope = symbols.scope();
        s.exported = place.top_level && ast_.has_blocks;
        break;
      }
      case StmtType::filter_block: {
        Symbols symbols(place.symbols, place.symbols->function());
        note(symbols, s.body);
        note(symbols, s.expr, false);
        const Place inside = inner(place, symbols);
        bind(s.body, inside);
        bind(s.expr, inside);
        s.scope = symbols.scope();
        break;
      }
      case StmtType::with: {
        Symbols symbols(place.symbols, place.symbols->function());
        for (const Expr* target : s.exprs) note(symbols, target, false);
        note(symbols, s.body);
        const Place inside = inner(place, symbols);
        bind_all(s.exprs, inside);
        bind_all(s.values, place);
        bind(s.body, inside);
        s.scope = symbols.scope();
        break;
      }
      case StmtType::macro:
        bind_function(s, place);
        bind(s.target, place);
        s.ref = s.target->ref;
        s.exported = place.top_level && ast_.has_blocks;
        break;
      case StmtType::call_block:
        bind_function(s, place);
        bind(s.expr, place);
        break;
      case StmtType::generation:
        bind_function(s, place);
        break;
      case StmtType::block:
        bind_block(s);
        break;
      case StmtType::break_:
      case StmtType::continue_:
        if (!place.in_loop)
          syntax_error(s.line,
                       std::string("'") + (s.type == StmtType::break_ ? "break" : "continue") + "' outside loop");
        break;
      case StmtType::loader:
        break;
    }
  }

  static Place inner(const Place& place, Symbols& symbols) {
    Place inside = place;
    inside.symbols = &symbols;
    inside.top_level = false;
    inside.soft = false;
    return inside;
  }

  void bind_for(Stmt& s, const Place& place) {
    Function* function = place.symbols->function();
    bind(s.expr, place);
    if (s.recursive) {
      s.function = std::make_unique<Function>();
      s.function->parent = function;
      function = s.function.get();
    }
    Symbols symbols(place.symbols, function);
    s.extended = s.recursive || reads(s.body, "loop");
    if (s.extended) s.loop_slot = symbols.declare_parameter(ast_.intern("loop"));
    note(symbols, s.target, false, true);
    note(symbols, s.body);
    Place inside = inner(place, symbols);
    inside.in_loop = inside.in_for = true;
    bind(s.target, inside);
    if (s.test != nullptr) {
      // The filter runs ahead of the body (a generator), so its variables have slots of their own.
      Symbols test_symbols(place.symbols, function, "test" + std::to_string(n_tests_++) + "_");
      s.test_target = copy_target(*s.target);
      note(test_symbols, s.test_target, false, true);
      note(test_symbols, s.test, false);
      const Place test_place = inner(place, test_symbols);
      bind(s.test_target, test_place);
      bind(s.test, test_place);
      s.test_scope = test_symbols.scope();
    }
    bind(s.body, inside);
    s.scope = symbols.scope();
    if (!s.else_body.empty()) {
      Symbols else_symbols(place.symbols, function);
      note(else_symbols, s.else_body);
      Place else_place = inner(place, else_symbols);
      else_place.in_for = true;
      if (s.recursive) else_place.in_loop = false;
      bind(s.else_body, else_place);
      s.else_scope = else_symbols.scope();
    }
  }

  Expr* copy_target(const Expr& target) {
    Expr& copy = ast_.exprs.emplace_back();
    copy.type = target.type;
    copy.store = target.store;
    copy.line = target.line;
    copy.name = target.name;
    for (const Expr* item : target.items) copy.items.push_back(copy_target(*item));
    return &copy;
  }

  /// Macros, call blocks, generation blocks.
  void bind_function(Stmt& s, const Place& place) {
    Function& f = *s.function;
    f.parent = place.symbols->function();
    Symbols symbols(place.symbols, &f);
    bool own_kwargs = false, own_varargs = false;
    for (size_t i = 0; i < f.parameters.size(); ++i) {
      const std::string_view name = f.parameters[i]->name->text;
      own_kwargs |= name == "kwargs";
      own_varargs |= name == "varargs";
      if (name == "caller") {
        f.explicit_caller = true;
        if (reads(s.body, "caller") && i + f.defaults.size() < f.parameters.size())
          syntax_error(s.line, "the special 'caller' argument must be omitted or be given a default");
      }
    }
    for (const Expr* p : f.parameters) note(symbols, p, false);
    for (const Expr* d : f.defaults) note(symbols, d, false);
    if (!f.explicit_caller && reads(s.body, "caller")) f.caller_slot = symbols.declare_parameter(ast_.intern("caller"));
    if (!own_kwargs && reads(s.body, "kwargs")) f.kwargs_slot = symbols.declare_parameter(ast_.intern("kwargs"));
    if (!own_varargs && reads(s.body, "varargs")) f.varargs_slot = symbols.declare_parameter(ast_.intern("varargs"));
    note(symbols, s.body);
    Place inside = inner(place, symbols);
    inside.in_loop = false;
    bind_all(f.parameters, inside);
    bind_all(f.defaults, inside);
    bind(s.body, inside);
    s.scope = symbols.scope();
  }

  /// A block is compiled apart from the rest: it sees the context and the template's top-level variables, nothing else.
  void bind_block(Stmt& s) {
    if (!block_names_.insert(s.text).second)
      syntax_error(s.line, "block '" + std::string(s.text->text) + "' defined twice");
    Symbols symbols(nullptr, s.function.get());
    note(symbols, s.body);
    Place place{&symbols};
    bind(s.body, place);
    s.scope = symbols.scope();
  }

  void bind_all(const std::vector<Expr*>& exprs, const Place& place) {
    for (Expr* e : exprs) bind(e, place);
  }

  void bind(Expr* e, const Place& place) {
    if (e == nullptr) return;
    Place inside = place;
    switch (e->type) {
      case ExprType::name:
        if (e->store && !e->parameter && place.in_for && e->name->text == "loop")
          syntax_error(e->line, "Can't assign to special loop variable in for-loop");
        e->ref = place.symbols->ref(e->name);
        break;
      case ExprType::namespace_ref:
        e->ref = place.symbols->ref(e->name);
        break;
      case ExprType::cond:
        inside.soft = true;
        break;
      case ExprType::filter:
        e->builtin = find_filter(e->name->text);
        if (e->builtin == nullptr && !place.soft)
          syntax_error(e->line, "No filter named '" + std::string(e->name->text) + "'.");
        break;
      case ExprType::test:
        e->builtin = find_test(e->name->text);
        if (e->builtin == nullptr && !place.soft)
          syntax_error(e->line, "No test named '" + std::string(e->name->text) + "'.");
        break;
      case ExprType::attribute:
        e->string_method = find_method(Kind::string, e->name->text);
        e->dict_method = find_method(Kind::dict, e->name->text);
        e->list_method = find_method(Kind::list, e->name->text);
        break;
      default:
        break;
    }
    for_each_part(*e, [&](Expr& part) { bind(&part, inside); });
  }

  Ast& ast_;
  int n_tests_ = 0;
  std::unordered_set<const String*> block_names_;
};

}  // namespace

void resolve_names(Ast& ast) { Binder(ast).run(); }

}  // namespace engine::jinja
