// A progress bar on stderr: only on a terminal, only when the work takes long enough to be noticed, and gone when it is done.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace engine::cli {

class Progress {
 public:
  /// `label`: "loading". Nothing is shown with `quiet` or when stderr is no terminal.
  Progress(std::string label, bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `note` stands behind the bar where there is room.
  void update(uint64_t done, uint64_t total, const std::string& note = {});
  /// Takes the bar off the screen.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool on_, shown_ = false;
  Clock::time_point start_, last_;
};

}  // namespace engine::cli
