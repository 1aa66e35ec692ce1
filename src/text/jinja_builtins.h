// Filters, tests, methods and global functions: rows of tables, one implementation each.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace engine::jinja {

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<Value, Value>> named;  // name (a string), value
};

/// `self`: what a filter, test or method is applied to. `p`: one value a parameter of the row, missing where none was
/// given.
using BuiltinFn = Value (*)(Evaluator& ev, const Value& self, const Value* p, CallArgs& args);

inline constexpr int max_parameters = 6;

enum class Binding : uint8_t {
  by_name,     // positionally or by name, as Python functions do
  positional,  // by position only, as methods of Python's built-in types do
  variadic     // the function looks at the arguments itself
};

struct Builtin {
  std::string_view name;
  BuiltinFn fn;
  int required = 0;
  std::string_view parameters[max_parameters] = {};
  Binding binding = Binding::by_name;
};

/// Null if there is none of that name.
const Builtin* find_filter(std::string_view name);
const Builtin* find_test(std::string_view name);
const Builtin* find_global(std::string_view name);
/// Methods of values of that kind. Those that the sandbox keeps back, since they would change a list or dict, have no
/// function.
const Builtin* find_method(Kind kind, std::string_view name);

/// For the find functions: tables are small, hashed once.
class BuiltinTable {
 public:
  struct Part {
    const Builtin* rows;
    size_t n;
  };
  explicit BuiltinTable(std::initializer_list<Part> parts);
  const Builtin* find(std::string_view name) const;

 private:
  std::vector<const Builtin*> slots_;
};

// The parts of the filter table, each in a file of its own.
extern const Builtin text_filters[];
extern const size_t n_text_filters;
extern const Builtin sequence_filters[];
extern const size_t n_sequence_filters;
extern const Builtin string_methods[];
extern const size_t n_string_methods;

}  // namespace engine::jinja
