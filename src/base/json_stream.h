// Where a JSON value ends in a text that comes byte by byte, and whether what came so far is the beginning of one.
#pragma once

#include <cstdint>
#include <string>

namespace engine {

/// One strict JSON value (RFC 8259) without blanks before it. Nesting deeper than 200 counts as wrong.
class JsonStream {
 public:
  enum class Step : uint8_t {
    more,    // the byte belongs to the value
    last,    // it ends the value
    beyond,  // the value, a number, ended before this byte
    wrong,   // no value goes on so
  };
  Step push(char c);

 private:
  enum class State : uint8_t { value, first_item, first_key, key, string, escape, hex, colon, after, word, minus, zero, whole, point, fraction, e, e_sign, exponent };

  Step begin_value(char c);
  Step number(char c);
  Step ended();

  State state_ = State::value;
  std::string stack_;         // the open brackets
  bool string_is_key_ = false;
  int n_hex_ = 0;
  const char* word_ = "";     // what is left of true, false or null
};

}  // namespace engine
