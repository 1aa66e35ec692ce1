#include "cli/messages.h"

#include <errno.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"

namespace engine::cli {

void check_messages(const Json& messages, const std::string& where) {
  if (!messages.is_array()) throw Error(where + ": expected a list of messages, got " + messages.type_name());
  if (messages.empty()) throw Error(where + ": expected at least one message, got an empty list");
  for (size_t i = 0; i < messages.size(); i++) {
    const Json& message = messages[i];
    const std::string which = where + ": message " + std::to_string(i + 1);
    if (!message.is_object()) throw Error(which + ": expected {\"role\", \"content\"}, got " + message.type_name());
    if (!message.contains("role") || !message["role"].is_string()) throw Error(which + ": expected a string \"role\"");
  }
}

std::string read_stdin() {
  constexpr size_t max_bytes = size_t{64} << 20;
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(std::string("stdin: cannot read: ") + std::strerror(errno));
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > max_bytes) throw Error("stdin: expected at most " + std::to_string(max_bytes) + " bytes, got more");
  }
}

Json read_json_argument(const std::string& path) { return path == "-" ? parse_json(read_stdin(), "stdin") : read_json_file(path); }

std::string message_text(const Json& message) {
  const auto content = message.find("content");
  if (content == message.end()) return {};
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  if (content->is_array()) {
    for (const Json& part : *content) {
      if (part.is_object() && part.contains("text") && part["text"].is_string()) text += part["text"].get<std::string>();
    }
  }
  return text;
}

}  // namespace engine::cli
