#include "cli/line_reader.h"

#include <errno.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "cli/terminal.h"

namespace engine::cli {
namespace {

constexpr size_t max_line_bytes = size_t{64} << 20;
constexpr size_t chunk_bytes = size_t{64} << 10;

}  // namespace

bool LineReader::next(std::string* line) {
  size_t scanned = begin_, end;
  while ((end = buffer_.find('\n', scanned)) == std::string::npos) {
    if (buffer_.size() - begin_ > max_line_bytes) {
      throw Error("stdin: expected lines of at most " + std::to_string(max_line_bytes) + " bytes, got a longer one");
    }
    buffer_.erase(0, begin_);
    begin_ = 0;
    scanned = buffer_.size();
    if (fill()) continue;
    if (buffer_.empty()) return false;
    buffer_ += '\n';  // a last line without an end
  }
  line->assign(buffer_, begin_, end - begin_);
  if (line->ends_with('\r')) line->pop_back();
  begin_ = end + 1;
  return true;
}

bool LineReader::fill() {
  char chunk[chunk_bytes];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EIO) throw Error(std::string("stdin: cannot read: ") + std::strerror(errno));  // EIO: the terminal is gone
    if (n <= 0) return false;
    buffer_.append(chunk, static_cast<size_t>(n));
    return true;
  }
}

void answer_lines(const std::function<std::string(std::string_view)>& answer) {
  LineReader reader;
  std::string line, out;
  while (reader.next(&line)) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    out += answer(line);
    out += '\n';
    if (reader.ready() && out.size() < chunk_bytes) continue;
    write_stdout(out);
    out.clear();
  }
  write_stdout(out);
}

}  // namespace engine::cli
