// What was typed, kept between runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace engine::cli {

/// Lines typed, oldest first, kept in a file (mode 0600) of one entry a line with \n and \ escaped. Each entry is appended as it comes, so
/// nothing is lost however the program ends, and two programs may write at once. Trouble with the file is no reason to stop: it is
/// kept in problem() and the history lives on in memory.
class History {
 public:
  /// An empty path: memory only.
  explicit History(std::string path);

  const std::vector<std::string>& entries() const { return entries_; }
  /// Skips blank text and a repetition of the last entry.
  void add(std::string_view text);
  /// One line on why the file is not used; empty if all is well.
  const std::string& problem() const { return problem_; }

  static constexpr size_t max_entries = 1000;
  static constexpr size_t max_entry_bytes = 64 << 10;  // longer ones are not kept in the file

 private:
  void load();
  std::string path_, problem_;
  std::vector<std::string> entries_;
};

/// $XDG_STATE_HOME/engine/history or ~/.local/state/engine/history; empty if there is no home.
std::string default_history_path();

}  // namespace engine::cli
