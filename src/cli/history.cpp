#include "cli/history.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "cli/files.h"

namespace engine::cli {
namespace {

constexpr size_t max_file_bytes = size_t{16} << 20;

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\\\";
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

std::string unescape(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size(); i++) {
    if (line[i] == '\\' && i + 1 < line.size()) {
      i++;
      out += line[i] == 'n' ? '\n' : line[i];
    } else {
      out += line[i];
    }
  }
  return out;
}

}  // namespace

std::string default_history_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::string(state) + "/engine/history";  // the specification: relative ones are ignored
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return {};
  return std::string(home) + "/.local/state/engine/history";
}

History::History(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  try {
    load();
  } catch (const Error& error) {
    problem_ = error.message;
    path_.clear();
  }
}

void History::load() {
  std::error_code ignored;
  if (!std::filesystem::exists(path_, ignored)) {
    make_private_directory(std::filesystem::path(path_).parent_path());
    return;
  }
  const std::string text = read_text_file(path_, max_file_bytes);
  size_t n_lines = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string entry = unescape(std::string_view(text).substr(begin, end - begin));
    if (!entry.empty() && (entries_.empty() || entries_.back() != entry)) entries_.push_back(std::move(entry));
    begin = end + 1;
    n_lines++;
  }
  if (entries_.size() > max_entries) entries_.erase(entries_.begin(), entries_.end() - max_entries);
  if (n_lines > 2 * max_entries) {
    std::string kept;
    for (const std::string& entry : entries_) kept += escape(entry) + "\n";
    write_file_atomically(path_, kept, 0600);
  }
}

void History::add(std::string_view text) {
  if (text.find_first_not_of(" \t\n") == std::string_view::npos) return;
  if (!entries_.empty() && entries_.back() == text) return;
  entries_.emplace_back(text);
  if (entries_.size() > max_entries) entries_.erase(entries_.begin());
  if (path_.empty() || text.size() > max_entry_bytes) return;
  const std::string line = escape(text) + "\n";
  const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const bool written = fd >= 0 && ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (!written) {
    problem_ = path_ + ": cannot write: " + std::strerror(errno);
    path_.clear();
  }
  if (fd >= 0) ::close(fd);
}

}  // namespace engine::cli
