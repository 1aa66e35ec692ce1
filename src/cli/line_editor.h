// Reading a message on a terminal: editing, history, several lines, paste. isocline behind an interface of our own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/history.h"

namespace engine::cli {

/// Keys are readline's. Enter sends; after a line that ends in `\`, and with Ctrl-J, it starts a new line. Pasted text goes in whole,
/// newlines and all. One at a time (isocline is global). Needs a terminal that can place its cursor on stdin and stdout.
class LineEditor {
 public:
  enum class Status { line, interrupted, end };  // interrupted: Ctrl-C, what was typed is gone
  struct Result {
    Status status = Status::line;
    std::string text;
  };

  /// `completions`: words the Tab key completes at the start of a line.
  LineEditor(History& history, std::vector<std::string> completions);

  /// A message; it goes into the history. With `block_input` Enter starts a new line and an empty line sends (a command, '!' or '/' first, goes at
  /// once).
  Result read_message(bool block_input);
  /// The answer to a question; not kept in the history.
  Result read_reply(const std::string& question);

 private:
  Result read_line(const std::string& prompt, const char* marker);
  History& history_;
  std::vector<std::string> completions_;
};

}  // namespace engine::cli
