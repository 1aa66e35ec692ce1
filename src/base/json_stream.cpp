#include "base/json_stream.h"

namespace engine {
namespace {

constexpr size_t max_depth = 200;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace

JsonStream::Step JsonStream::ended() {
  state_ = State::after;
  return stack_.empty() ? Step::last : Step::more;
}

JsonStream::Step JsonStream::begin_value(char c) {
  switch (c) {
    case '{':
    case '[':
      if (stack_.size() >= max_depth) return Step::wrong;
      stack_.push_back(c);
      state_ = c == '{' ? State::first_key : State::first_item;
      return Step::more;
    case '"':
      state_ = State::string;
      string_is_key_ = false;
      return Step::more;
    case '-': state_ = State::minus; return Step::more;
    case '0': state_ = State::zero; return Step::more;
    case 't': word_ = "rue"; break;
    case 'f': word_ = "alse"; break;
    case 'n': word_ = "ull"; break;
    default:
      if (!is_digit(c)) return Step::wrong;
      state_ = State::whole;
      return Step::more;
  }
  state_ = State::word;
  return Step::more;
}

/// The next byte of a number; beyond: it has ended.
JsonStream::Step JsonStream::number(char c) {
  const bool digit = is_digit(c);
  const auto go = [this](State to) {
    state_ = to;
    return Step::more;
  };
  switch (state_) {
    case State::minus: return !digit ? Step::wrong : go(c == '0' ? State::zero : State::whole);
    case State::point: return digit ? go(State::fraction) : Step::wrong;
    case State::e: return digit ? go(State::exponent) : c == '+' || c == '-' ? go(State::e_sign) : Step::wrong;
    case State::e_sign: return digit ? go(State::exponent) : Step::wrong;
    default: break;
  }
  if (digit) return state_ == State::zero ? Step::wrong : Step::more;
  if (c == '.' && (state_ == State::zero || state_ == State::whole)) return go(State::point);
  if ((c == 'e' || c == 'E') && state_ != State::exponent) return go(State::e);
  return Step::beyond;
}

JsonStream::Step JsonStream::push(char c) {
  switch (state_) {
    case State::string:
      if (c == '\\') state_ = State::escape;
      else if (static_cast<unsigned char>(c) < 0x20) return Step::wrong;
      else if (c == '"' && string_is_key_) state_ = State::colon;
      else if (c == '"') return ended();
      return Step::more;
    case State::escape:
      if (c == 'u') n_hex_ = 4;
      else if (std::string("\"\\/bfnrt").find(c) == std::string::npos) return Step::wrong;
      state_ = c == 'u' ? State::hex : State::string;
      return Step::more;
    case State::hex:
      if (!is_hex(c)) return Step::wrong;
      if (--n_hex_ == 0) state_ = State::string;
      return Step::more;
    case State::word:
      if (c != *word_) return Step::wrong;
      return *++word_ == 0 ? ended() : Step::more;
    case State::minus: case State::zero: case State::whole: case State::point: case State::fraction: case State::e: case State::e_sign: case State::exponent: {
      const Step step = number(c);
      if (step != Step::beyond || stack_.empty()) return step;
      state_ = State::after;
      break;
    }
    default: break;
  }
  if (is_blank(c)) return stack_.empty() ? Step::wrong : Step::more;
  switch (state_) {
    case State::first_item:
      if (c != ']') return begin_value(c);
      break;
    case State::first_key:
    case State::key:
      if (c == '"') {
        state_ = State::string;
        string_is_key_ = true;
        return Step::more;
      }
      if (c != '}' || state_ == State::key) return Step::wrong;
      break;
    case State::colon:
      if (c != ':') return Step::wrong;
      state_ = State::value;
      return Step::more;
    case State::after:
      if (c == ',') {
        state_ = stack_.back() == '{' ? State::key : State::value;
        return Step::more;
      }
      if (c != (stack_.back() == '{' ? '}' : ']')) return Step::wrong;
      break;
    default: return begin_value(c);
  }
  stack_.pop_back();
  return ended();
}

}  // namespace engine
