// Operating errors (bad files, bad flags, bad requests) and programmer errors.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace engine {

/// An operating error: something outside the program is not as expected. `message` is one line, by convention
/// `<file or flag>: <what>: expected X, got Y`; `hint`, where there is one, says how to mend it.
/// Thrown anywhere; caught in main, in the route wrapper of the server, and nowhere else without a reason.
struct Error : std::exception {
  explicit Error(std::string message_, std::string hint_ = {}) : message(std::move(message_)), hint(std::move(hint_)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
  std::string hint;
};

/// Prints the failed condition with its place and aborts. Never returns.
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);

}  // namespace engine

/// A programmer's error, checked in every build. For cold boundaries only; bytes from outside never reach one unchecked.
#define ASSERT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) [[unlikely]]                                              \
      ::engine::assert_failed(#condition, __FILE__, __LINE__);                  \
  } while (0)
