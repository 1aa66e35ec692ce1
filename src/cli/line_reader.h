// Lines of stdin when it is no terminal, and answers to them.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace engine::cli {

/// Splits at \n and drops a \r before it; the last line needs no end.
class LineReader {
 public:
  /// False at the end of the input. Throws Error if it cannot be read or a line is longer than 64 MiB.
  bool next(std::string* line);
  /// True if the next line is here already, so that next() will not wait.
  bool ready() const { return buffer_.find('\n', begin_) != std::string::npos; }

 private:
  bool fill();
  std::string buffer_;
  size_t begin_ = 0;  // of what is not handed out yet
};

/// Writes answer(line) and \n to stdout for every line of stdin that is not blank; at once when no further line waits.
void answer_lines(const std::function<std::string(std::string_view)>& answer);

}  // namespace engine::cli
