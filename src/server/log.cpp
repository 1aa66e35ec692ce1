#include "server/log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>

namespace engine::server {
namespace {

std::string now_text() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc = {};
  ::gmtime_r(&seconds, &utc);
  char date[32], text[40];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text, sizeof text, "%s.%03dZ", date, static_cast<int>(ms));
  return text;
}

/// Control characters from outside must not forge a line.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

}  // namespace

void Log::write(const char* event, const Json& fields) {
  if (format_ == LogFormat::none) return;
  std::string line;
  if (format_ == LogFormat::json) {
    Json object = {{"time", now_text()}, {"event", event}};
    object.update(fields);
    line = dump_json(object);
  } else {
    line = now_text() + " " + event;
    for (const auto& [key, value] : fields.items()) line += " " + key + "=" + (value.is_string() ? one_line(value.get<std::string>()) : dump_json(value));
  }
  line += '\n';
  const std::lock_guard lock(mutex_);
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace engine::server
