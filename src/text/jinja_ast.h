// The parsed template: nodes owned by one arena, immutable once variables are resolved.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja_value.h"

namespace engine::jinja {

struct Builtin;
struct Expr;
struct Stmt;

enum class ExprType : uint8_t {
  constant,
  name,
  list,
  tuple,
  dict,
  concat,
  add,
  sub,
  mul,
  div,
  floordiv,
  mod,
  pow,
  neg,
  pos,
  logical_not,
  logical_and,
  logical_or,
  compare,
  cond,
  filter,
  test,
  attribute,
  item,
  slice,
  call,
  namespace_ref
};

enum class CompareOp : uint8_t { eq, ne, lt, le, gt, ge, in, not_in };

/// Where a variable lives: `hops` activations up the static chain, then the slot.
struct VarRef {
  int hops = 0;
  int slot = -1;
};

struct Keyword {
  const String* name;
  Expr* value;
};

struct Arguments {
  std::vector<Expr*> positional;
  std::vector<Keyword> named;
  Expr* star = nullptr;
  Expr* star_star = nullptr;
};

struct Expr {
  ExprType type;
  bool store = false;      // name: a target, not a use
  bool parameter = false;  // name: bound by a loop, a macro's signature or `with`; always defined when read
  int line = 0;
  int height = 1;                 // of the tree below, itself included
  const String* name = nullptr;   // name, attribute, filter, test, namespace_ref (the namespace)
  const String* field = nullptr;  // namespace_ref: the attribute
  Value constant;
  VarRef ref;
  Expr* a = nullptr;         // operand, left, condition, callee
  Expr* b = nullptr;         // right, value if true, index, slice start
  Expr* c = nullptr;         // value if false, slice stop
  Expr* d = nullptr;         // slice step
  std::vector<Expr*> items;  // elements; keys and values in turn; operands of compare, concat and add
  std::vector<CompareOp> ops;
  Arguments args;
  const Builtin* builtin = nullptr;  // filter, test; null: unknown, raises when it is reached
  const Builtin* string_method =
      nullptr;  // attribute: the method of that name, if the object turns out to be a string ...
  const Builtin* dict_method = nullptr;
  const Builtin* list_method = nullptr;
};

enum class StmtType : uint8_t {
  text,
  output,
  if_,
  for_,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  generation,
  break_,
  continue_,
  block,
  loader
};

/// What is done to a scope's slots when it is entered: Jinja resolves names when the scope begins, not when they are
/// used.
struct ScopeLoad {
  enum class From : uint8_t { context, alias, nothing } from;
  int slot;
  VarRef source;       // alias
  const String* name;  // context
};
struct Scope {
  std::vector<ScopeLoad> loads;
  std::vector<int> slots;  // all that belong to it, emptied when it is left
};

/// A piece of template with an activation of its own, as Jinja compiles it to a Python function: the template, macros,
/// call blocks, recursive loops.
struct Function {
  Function* parent = nullptr;
  int n_slots = 0;
  const String* name = nullptr;
  std::vector<Expr*> parameters;
  std::vector<Expr*> defaults;  // of the last parameters
  int caller_slot = -1, kwargs_slot = -1, varargs_slot = -1;
  bool explicit_caller = false;
  std::unordered_map<std::string, int> slot_names;  // while resolving
};

struct Branch {
  Expr* test;  // null: else
  std::vector<Stmt*> body;
};

struct Stmt {
  StmtType type;
  int line = 0;
  const String* text = nullptr;  // text; block: its name; loader: the tag
  Expr* target = nullptr;        // for, set, set_block
  Expr* expr = nullptr;          // iterable, value, call, filter chain
  Expr* test = nullptr;          // for ... if
  bool recursive = false;
  bool extended = false;      // for: the body reads `loop`
  std::vector<Expr*> exprs;   // output; with: targets
  std::vector<Expr*> values;  // with
  std::vector<Stmt*> body;
  std::vector<Stmt*> else_body;
  std::vector<Branch> branches;  // if
  Scope scope, else_scope, test_scope;
  Expr* test_target = nullptr;  // for ... if: the target, in the filter's own slots
  int loop_slot = -1;
  VarRef ref;             // macro: where it is stored
  bool exported = false;  // set, set_block, macro at the top level, in a template with blocks: blocks see it
  std::unique_ptr<Function> function;  // macro, call_block, generation, block, recursive for
};

struct Ast {
  std::deque<String> strings;  // first: constants in expressions point here to the last
  std::deque<Expr> exprs;
  std::deque<Stmt> stmts;
  std::unordered_map<std::string, const String*> names;
  std::vector<Stmt*> body;
  Function root;
  Scope scope;
  bool has_blocks = false;

  /// The one String of this text; lives as long as the template, trusted.
  const String* intern(std::string_view text) {
    const auto it = names.find(std::string(text));
    if (it != names.end()) return it->second;
    const String* s = &strings.emplace_back(nullptr, std::string(text), true);
    names.emplace(std::string(text), s);
    return s;
  }
};

/// How deep expressions and statements may nest in a template's source. CPython itself gives up at 200 parentheses and
/// 100 indentations.
inline constexpr int max_source_nesting = 200;
inline constexpr int max_tree_height = 1000;

/// Throws Error with the line.
std::unique_ptr<Ast> parse_template(std::string_view source);
/// Binds variables to slots as Jinja's compiler does, and filters, tests and methods to their implementations. Throws
/// Error.
void resolve_names(Ast& ast);

}  // namespace engine::jinja
