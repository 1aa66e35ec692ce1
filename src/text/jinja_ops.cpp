// Operators: equality, order, arithmetic, concatenation.
#include <cmath>

#include "base/error.h"
#include "text/jinja_eval.h"

namespace engine::jinja {

// --- equality and order
// -----------------------------------------------------------------------------------------------------

bool Evaluator::equal(const Value& a, const Value& b, int depth) {
  budget.spend(1);
  if (a.is_string() && b.is_string()) {
    const std::string_view x = a.string().text;
    const std::string_view y = b.string().text;
    if (x.size() == y.size() && x.size() > 256) budget.spend(x.size() / 64);
    return x == y;
  }
  if (a.kind() != b.kind() || a.kind() <= Kind::undefined) {
    if (a.is(Kind::view) || b.is(Kind::view)) return false;
    return keys_equal(a, b);
  }
  if (depth > max_nesting) raise_too_nested();
  switch (a.kind()) {
    case Kind::list:
    case Kind::tuple: {
      const auto& x = a.list().items;
      const auto& y = b.list().items;
      if (x.size() != y.size()) return false;
      for (size_t i = 0; i < x.size(); ++i) {
        if (!x[i].same_object(y[i]) && !equal(x[i], y[i], depth + 1)) return false;
      }
      return true;
    }
    case Kind::dict: {
      const Dict& x = a.dict();
      const Dict& y = b.dict();
      if (x.entries.size() != y.entries.size()) return false;
      for (const DictEntry& e : x.entries) {
        const Value* other = y.find(e.key);
        if (other == nullptr || (!other->same_object(e.value) && !equal(e.value, *other, depth + 1))) return false;
      }
      return true;
    }
    case Kind::range: {
      const Range& x = a.as<Range>();
      const Range& y = b.as<Range>();
      return x.length == y.length && (x.length == 0 || (x.start == y.start && (x.length == 1 || x.step == y.step)));
    }
    case Kind::bytes:
      return a.as<Bytes>().data == b.as<Bytes>().data;
    case Kind::function:
      return a.as<Callable>().builtin == b.as<Callable>().builtin;
    default:
      return a.same_object(b);
  }
}

bool Evaluator::less(const Value& a, const Value& b, int depth) {
  budget.spend(1);
  if (a.is_string() && b.is_string()) {
    const std::string_view x = a.string().text;
    const std::string_view y = b.string().text;
    budget.spend(std::min(x.size(), y.size()) / 64);
    return x < y;  // UTF-8 keeps the order of code points; string_view compares bytes as unsigned
  }
  if (a.is_integer() && b.is_integer()) return a.as_integer() < b.as_integer();
  if (a.is_number() && b.is_number()) return a.as_real() < b.as_real();
  if (a.is_undefined()) raise_undefined(a);
  if (b.is_undefined()) raise_undefined(b);
  if (a.is_sequence() && a.kind() == b.kind()) {
    if (depth > max_nesting) raise_too_nested();
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!x[i].same_object(y[i]) && !equal(x[i], y[i], depth + 1)) return less(x[i], y[i], depth + 1);
    }
    return x.size() < y.size();
  }
  raise_type_error("'<' not supported between instances of '" + type_name(a) + "' and '" + type_name(b) + "'");
}

// --- arithmetic
// -------------------------------------------------------------------------------------------------------------

namespace {

std::string_view op_name(ExprType op) {
  switch (op) {
    case ExprType::add:
      return "+";
    case ExprType::sub:
      return "-";
    case ExprType::mul:
      return "*";
    case ExprType::div:
      return "/";
    case ExprType::floordiv:
      return "//";
    case ExprType::mod:
      return "%";
    default:
      return "** or pow()";
  }
}

[[noreturn]] void raise_overflow() { raise("OverflowError", "integers beyond 64 bits are not supported"); }

double float_mod(double a, double b) {
  double m = std::fmod(a, b);
  if (m != 0 && (m < 0) != (b < 0))
    m += b;
  else if (m == 0)
    m = std::copysign(0.0, b);
  return m;
}

int64_t int_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) raise_overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) raise_overflow();
  }
  return result;
}

Value integer_op(ExprType op, int64_t a, int64_t b, bool trusted) {
  int64_t r = 0;
  switch (op) {
    case ExprType::add:
      if (__builtin_add_overflow(a, b, &r)) raise_overflow();
      break;
    case ExprType::sub:
      if (__builtin_sub_overflow(a, b, &r)) raise_overflow();
      break;
    case ExprType::mul:
      if (__builtin_mul_overflow(a, b, &r)) raise_overflow();
      break;
    case ExprType::div:
      if (b == 0) raise("ZeroDivisionError", "division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b), trusted);
    case ExprType::floordiv:
    case ExprType::mod: {
      if (b == 0) raise("ZeroDivisionError", "integer division or modulo by zero");
      if (b == -1) {  // INT64_MIN / -1 traps
        if (op == ExprType::mod) break;
        if (__builtin_sub_overflow(int64_t{0}, a, &r)) raise_overflow();
        break;
      }
      int64_t quotient = a / b;
      int64_t rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) {
        --quotient;
        rest += b;
      }
      r = op == ExprType::mod ? rest : quotient;
      break;
    }
    default:
      if (b < 0) {
        if (a == 0) raise("ZeroDivisionError", "0.0 cannot be raised to a negative power");
        return Value::real(std::pow(static_cast<double>(a), static_cast<double>(b)), trusted);
      }
      r = int_power(a, b);
  }
  return Value::integer(r, trusted);
}

Value real_op(ExprType op, double a, double b, bool trusted) {
  double r = 0;
  switch (op) {
    case ExprType::add:
      r = a + b;
      break;
    case ExprType::sub:
      r = a - b;
      break;
    case ExprType::mul:
      r = a * b;
      break;
    case ExprType::div:
      if (b == 0) raise("ZeroDivisionError", "float division by zero");
      r = a / b;
      break;
    case ExprType::floordiv:
      if (b == 0) raise("ZeroDivisionError", "float floor division by zero");
      r = std::floor((a - float_mod(a, b)) / b + 0.5);
      if (r == 0) r = std::copysign(0.0, a / b);
      break;
    case ExprType::mod:
      if (b == 0) raise("ZeroDivisionError", "float modulo");
      r = float_mod(a, b);
      break;
    default:
      if (a == 0 && b < 0) raise("ZeroDivisionError", "0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b)) raise_type_error("complex numbers are not supported");
      r = std::pow(a, b);
      if (std::isinf(r) && !std::isinf(a) && !std::isinf(b)) raise("OverflowError", "Numerical result out of range");
  }
  return Value::real(r, trusted);
}

}  // namespace

void Evaluator::raise_operand_types(std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) raise_undefined(a);
  if (b.is_undefined()) raise_undefined(b);
  raise_type_error("unsupported operand type(s) for " + std::string(op) + ": '" + type_name(a) + "' and '" +
                   type_name(b) + "'");
}

Value Evaluator::binary(ExprType op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  if (op == ExprType::add) return add(a, b);
  if (op == ExprType::mul) return multiply(a, b);
  if (op == ExprType::mod && a.is_string()) return format_percent(*this, a, b);
  raise_operand_types(op_name(op), a, b);
}

Value Evaluator::arithmetic(ExprType op, const Value& a, const Value& b) {
  const bool trusted = a.trusted() && b.trusted();
  if (a.is_integer() && b.is_integer()) return integer_op(op, a.as_integer(), b.as_integer(), trusted);
  return real_op(op, a.as_real(), b.as_real(), trusted);
}

Value Evaluator::negate(const Value& v) {
  if (v.is_undefined()) raise_undefined(v);
  if (v.is(Kind::real)) return Value::real(-v.as_real(), v.trusted());
  if (!v.is_integer()) raise_type_error("bad operand type for unary -: '" + type_name(v) + "'");
  return integer_op(ExprType::sub, 0, v.as_integer(), v.trusted());
}

void append_escaped(TextBuilder& out, const String& s) {
  TrustCursor trust(s);
  size_t begin = 0;
  for (size_t i = 0; i < s.text.size(); ++i) {
    std::string_view entity;
    switch (s.text[i]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      case '"':
        entity = "&#34;";
        break;
      default:
        continue;
    }
    out.append(s, begin, i);
    out.append(entity, trust.at(i));
    begin = i + 1;
  }
  out.append(s, begin, s.text.size());
}

Value Evaluator::add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.string().markup || b.string().markup;
    TextBuilder out(budget);
    for (const Value* v : {&a, &b}) {
      if (markup && !v->string().markup)
        append_escaped(out, v->string());
      else
        out.append(v->string());
    }
    return out.finish(markup);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    std::vector<Value> joined = items(a);
    const auto& more = b.list().items;
    budget.spend(more.size() / 8);
    budget.check_items(joined.size() + more.size());
    joined.insert(joined.end(), more.begin(), more.end());
    return a.is(Kind::list) ? list(std::move(joined)) : tuple(std::move(joined));
  }
  if (a.is_string() && !b.is_undefined())
    raise_type_error("can only concatenate str (not \"" + type_name(b) + "\") to str");
  raise_operand_types("+", a, b);
}

Value Evaluator::multiply(const Value& a, const Value& b) {
  const Value& sequence = a.is_integer() ? b : a;
  const Value& times = a.is_integer() ? a : b;
  if (!times.is_integer() || !(sequence.is_string() || sequence.is_sequence())) raise_operand_types("*", a, b);
  const auto n = static_cast<uint64_t>(std::max<int64_t>(times.as_integer(), 0));
  if (sequence.is_string()) {
    const String& s = sequence.string();
    TextBuilder out(budget);
    if (!s.text.empty()) {
      if (n > budget.max_text_bytes / s.text.size()) budget.check_text(SIZE_MAX);
      budget.spend(n + n * s.text.size() / 64);
      for (uint64_t i = 0; i < n; ++i) out.append(s);
    }
    return out.finish(s.markup);
  }
  const auto& one = sequence.list().items;
  std::vector<Value> out;
  if (!one.empty()) {
    if (n > budget.max_items / one.size()) budget.check_items(SIZE_MAX);
    budget.spend(n * one.size());
    for (uint64_t i = 0; i < n; ++i) out.insert(out.end(), one.begin(), one.end());
  }
  return sequence.is(Kind::list) ? list(std::move(out)) : tuple(std::move(out));
}

}  // namespace engine::jinja
