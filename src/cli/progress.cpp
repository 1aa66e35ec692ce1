#include "cli/progress.h"

#include <algorithm>

#include "cli/terminal.h"

namespace engine::cli {
namespace {

constexpr auto first_after = std::chrono::milliseconds(400), again_after = std::chrono::milliseconds(100);
constexpr int bar_width = 30;

}  // namespace

Progress::Progress(std::string label, bool quiet)
    : label_(std::move(label)), on_(!quiet && terminal().stderr_tty), start_(Clock::now()), last_(start_) {}

void Progress::update(uint64_t done, uint64_t total, const std::string& note) {
  if (!on_ || total == 0) return;
  const auto now = Clock::now();
  if (now - start_ < first_after || now - last_ < again_after) return;
  last_ = now;
  const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int filled = static_cast<int>(part * bar_width);
  std::string bar = "\r" + label_ + " [";
  for (int i = 0; i < bar_width; i++) bar += i < filled ? '#' : ' ';
  bar += "] " + std::to_string(static_cast<int>(part * 100)) + "%";
  if (!note.empty() && bar.size() + note.size() + 2 < static_cast<size_t>(terminal_size().columns)) bar += "  " + note;
  bar += "\x1b[K";
  write_stderr(bar);
  shown_ = true;
}

void Progress::clear() {
  if (shown_) write_stderr("\r\x1b[K");
  shown_ = false;
}

}  // namespace engine::cli
