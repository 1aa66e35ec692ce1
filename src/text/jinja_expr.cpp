// Expressions.
#include "base/error.h"
#include "text/jinja_eval.h"

namespace engine::jinja {

Value Evaluator::eval(const Expr& e) {
  budget.spend(1);
  check_stack();
  switch (e.type) {
    case ExprType::constant:
      return e.constant;
    case ExprType::name:
      return eval_name(e);
    case ExprType::list:
    case ExprType::tuple:
      return eval_list(e);
    case ExprType::dict:
      return eval_dict(e);
    case ExprType::concat:
      return eval_concat(e);
    case ExprType::add:
      return eval_add(e);
    case ExprType::sub:
    case ExprType::mul:
    case ExprType::div:
    case ExprType::floordiv:
    case ExprType::mod:
    case ExprType::pow: {
      const Value left = eval(*e.a);
      return binary(e.type, left, eval(*e.b));
    }
    case ExprType::neg:
      return negate(eval(*e.a));
    case ExprType::pos: {
      Value v = eval(*e.a);
      if (v.is_undefined()) raise_undefined(v);
      if (!v.is_number()) raise_type_error("bad operand type for unary +: '" + type_name(v) + "'");
      return v.is(Kind::boolean) ? Value::integer(v.as_integer(), v.trusted()) : v;
    }
    case ExprType::logical_not:
      return Value::boolean(!truthy(eval(*e.a)));
    case ExprType::logical_and: {
      Value left = eval(*e.a);
      return truthy(left) ? eval(*e.b) : left;
    }
    case ExprType::logical_or: {
      Value left = eval(*e.a);
      return truthy(left) ? left : eval(*e.b);
    }
    case ExprType::compare:
      return eval_compare(e);
    case ExprType::cond:
      if (truthy(eval(*e.a))) return eval(*e.b);
      return e.c != nullptr
                 ? eval(*e.c)
                 : undefined_hint("the inline if-expression evaluated to false and no else section was defined.");
    case ExprType::filter:
      return eval_filter(e, nullptr);
    case ExprType::test:
      return eval_test(e);
    case ExprType::attribute: {
      const Value object = eval(*e.a);
      // The common case first: a key of a message that is not a method's name.
      if (object.is(Kind::dict) && e.dict_method == nullptr) {
        const Value* v = object.dict().find(*e.name);
        return v != nullptr ? *v : Value::undefined(UndefinedWhy::attribute, e.name, Kind::dict);
      }
      return attribute(object, *e.name);
    }
    case ExprType::item: {
      const Value object = eval(*e.a);
      return item(object, eval(*e.b));
    }
    case ExprType::slice:
      return eval_slice(e);
    case ExprType::call:
      return eval_call(e, nullptr);
    case ExprType::namespace_ref:
      break;
  }
  return Value();
}

Value Evaluator::eval_name(const Expr& e) {
  const Value& v = slot(e.ref);
  return v.is_missing() ? Value::undefined(UndefinedWhy::variable, e.name) : v;
}

Value Evaluator::eval_list(const Expr& e) {
  std::vector<Value> items;
  items.reserve(e.items.size());
  for (const Expr* item : e.items) items.push_back(eval(*item));
  return e.type == ExprType::list ? list(std::move(items)) : tuple(std::move(items));
}

Value Evaluator::eval_dict(const Expr& e) {
  Dict* dict = new_dict();
  Value v = Value::adopt(dict);
  for (size_t i = 0; i < e.items.size(); i += 2) {
    const Value key = eval(*e.items[i]);
    Value value = eval(*e.items[i + 1]);
    if (!dict->set(key, std::move(value))) raise_type_error("unhashable type: '" + type_name(key) + "'");
  }
  return v;
}

Value Evaluator::eval_concat(const Expr& e) {
  TextBuilder out(budget);
  for (const Expr* part : e.items) append_str(out, eval(*part));
  return out.finish();
}

static bool is_plain_string(const Value& v) { return v.is_string() && !v.string().markup; }

/// Strings are joined in one go instead of pairwise.
Value Evaluator::eval_add(const Expr& e) {
  Value left = eval(*e.items[0]);
  TextBuilder joined(budget);
  bool joining = false;  // `joined` is the sum so far, else `left`
  for (size_t i = 1; i < e.items.size(); ++i) {
    const Value right = eval(*e.items[i]);
    if (is_plain_string(right) && (joining || is_plain_string(left))) {
      if (!joining) joined.append(left.string());
      joining = true;
      joined.append(right.string());
      continue;
    }
    if (joining) left = joined.finish();
    joining = false;
    left = binary(ExprType::add, left, right);
  }
  return joining ? joined.finish() : left;
}

Value Evaluator::eval_compare(const Expr& e) {
  Value left = eval(*e.a);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = eval(*e.items[i]);
    if (!compare(e.ops[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

bool Evaluator::compare(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::eq:
      return equal(a, b);
    case CompareOp::ne:
      return !equal(a, b);
    case CompareOp::lt:
      return less(a, b);
    case CompareOp::gt:
      return less(b, a);
    // not (b < a) would be wrong for NaN
    case CompareOp::le:
      return less(a, b) || equal(a, b);
    case CompareOp::ge:
      return less(b, a) || equal(a, b);
    case CompareOp::in:
      return contains(b, a);
    case CompareOp::not_in:
      return !contains(b, a);
  }
  return false;
}

Value Evaluator::eval_slice(const Expr& e) {
  const Value object = eval(*e.a);
  const Value start = e.b != nullptr ? eval(*e.b) : Value::none();
  const Value stop = e.c != nullptr ? eval(*e.c) : Value::none();
  const Value step = e.d != nullptr ? eval(*e.d) : Value::none();
  return slice(object, start, stop, step);
}

// --- filters, tests, calls
// ------------------------------------------------------------------------------------------------

void Evaluator::eval_arguments(const Arguments& from, CallArgs* to) {
  to->positional.reserve(from.positional.size());
  for (const Expr* e : from.positional) to->positional.push_back(eval(*e));
  if (from.star != nullptr) {
    std::vector<Value> more = items(eval(*from.star));
    for (Value& v : more) to->positional.push_back(std::move(v));
  }
  for (const Keyword& k : from.named) to->named.emplace_back(Value::share(k.name), eval(*k.value));
  if (from.star_star != nullptr) {
    const Value more = eval(*from.star_star);
    if (!more.is(Kind::dict)) raise_type_error("argument after ** must be a mapping, not " + type_name(more));
    for (const DictEntry& entry : more.dict().entries) {
      if (!entry.key.is_string()) raise_type_error("keywords must be strings");
      for (const auto& [name, value] : to->named) {
        budget.spend(1);
        if (keys_equal(name, entry.key))
          raise_type_error("got multiple values for keyword argument '" + plain(name) + "'");
      }
      to->named.emplace_back(entry.key, entry.value);
    }
  }
}

/// `input`: what a filter block or set block applies its chain to; else the expression's own operand.
Value Evaluator::eval_filter(const Expr& e, const Value* input) {
  Value v;
  if (e.a == nullptr)
    v = *input;
  else if (input != nullptr && e.a->type == ExprType::filter)
    v = eval_filter(*e.a, input);
  else
    v = eval(*e.a);
  if (e.builtin == nullptr) raise("TemplateRuntimeError", "No filter named '" + std::string(e.name->text) + "' found.");
  CallArgs args;
  eval_arguments(e.args, &args);
  return call_builtin(*e.builtin, v, args);
}

Value Evaluator::eval_test(const Expr& e) {
  const Value v = eval(*e.a);
  if (e.builtin == nullptr) raise("TemplateRuntimeError", "No test named '" + std::string(e.name->text) + "' found.");
  CallArgs args;
  eval_arguments(e.args, &args);
  return call_builtin(*e.builtin, v, args);
}

Value Evaluator::eval_call(const Expr& e, const Value* caller) {
  Value callee;
  Value self;
  const Builtin* method = nullptr;
  if (e.a->type == ExprType::attribute) {
    // A method call on a string, list or dict needs no bound method.
    self = eval(*e.a->a);
    method = self.is_string()      ? e.a->string_method
             : self.is(Kind::dict) ? e.a->dict_method
             : self.is(Kind::list) ? e.a->list_method
                                   : nullptr;
    if (method != nullptr && method->fn == nullptr) method = nullptr;
    if (method == nullptr) callee = attribute(self, *e.a->name);
  } else {
    callee = eval(*e.a);
  }
  CallArgs args;
  eval_arguments(e.args, &args);
  if (caller != nullptr) args.named.emplace_back(caller_name_, *caller);
  return method != nullptr ? call_builtin(*method, self, args) : call(callee, args);
}

Value Evaluator::call(const Value& callee, CallArgs& args) {
  budget.spend(1);
  check_stack();
  switch (callee.kind()) {
    case Kind::undefined:
      raise_undefined(callee);
    case Kind::macro:
      return call_macro(callee.as<Macro>(), args);
    case Kind::loop:
      return call_loop(callee.as<Loop>(), args);
    case Kind::function:
    case Kind::method: {
      const auto& c = callee.as<Callable>();
      return call_builtin(*c.builtin, c.self, args);
    }
    case Kind::joiner: {
      auto& joiner = callee.as<Joiner>();
      if (!args.positional.empty() || !args.named.empty()) raise_type_error("a joiner takes no arguments");
      if (joiner.used) return joiner.separator;
      joiner.used = true;
      return text("", true);
    }
    case Kind::block: {
      const auto& block = callee.as<BlockReference>();
      if (block.statement == nullptr) break;
      return call_block(*block.statement);
    }
    default:
      break;
  }
  raise_type_error("'" + type_name(callee) + "' object is not callable");
}

Value Evaluator::call_builtin(const Builtin& builtin, const Value& self, CallArgs& args) {
  const std::string_view name = builtin.name;
  Value bound[max_parameters];
  if (builtin.binding != Binding::variadic) {
    int n = 0;
    while (n < max_parameters && !builtin.parameters[n].empty()) ++n;
    if (args.positional.size() > static_cast<size_t>(n))
      raise_type_error(std::string(name) + "() takes at most " + std::to_string(n) + " arguments (" +
                       std::to_string(args.positional.size()) + " given)");
    for (size_t i = 0; i < args.positional.size(); ++i) bound[i] = std::move(args.positional[i]);
    for (auto& [key, value] : args.named) {
      int i = 0;
      while (i < n && builtin.parameters[i] != key.string().text) ++i;
      if (i == n || builtin.binding == Binding::positional)
        raise_type_error(std::string(name) + "() got an unexpected keyword argument '" + plain(key) + "'");
      if (!bound[i].is_missing())
        raise_type_error(std::string(name) + "() got multiple values for argument '" + plain(key) + "'");
      bound[i] = std::move(value);
    }
    for (int i = 0; i < builtin.required; ++i) {
      if (bound[i].is_missing())
        raise_type_error(std::string(name) + "() missing 1 required positional argument: '" +
                         std::string(builtin.parameters[i]) + "'");
    }
  }
  return builtin.fn(*this, self, bound, args);
}

static const Builtin* find_named(const Value& name, const Builtin* (*find)(std::string_view), std::string_view what) {
  const Builtin* builtin = name.is_string() ? find(name.string().text) : nullptr;
  if (builtin == nullptr)
    raise("TemplateRuntimeError", "No " + std::string(what) + " named '" +
                                      (name.is_string() ? std::string(name.string().text) : type_name(name)) + "'.");
  return builtin;
}

Value Evaluator::call_filter(const Value& name, const Value& v, CallArgs& args) {
  return call_builtin(*find_named(name, find_filter, "filter"), v, args);
}
bool Evaluator::call_test(const Value& name, const Value& v, CallArgs& args) {
  return truthy(call_builtin(*find_named(name, find_test, "test"), v, args));
}

}  // namespace engine::jinja
