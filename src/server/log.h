// The server's log: a line an event on stderr, as text or JSON.
#pragma once

#include <mutex>
#include <string>

#include "base/json.h"

namespace engine::server {

enum class LogFormat { text, json, none };

class Log {
 public:
  explicit Log(LogFormat format) : format_(format) {}
  /// `fields`: an object, printed in order after the time and the event's name. Never holds what was said, only how much.
  void write(const char* event, const Json& fields);

 private:
  LogFormat format_;
  std::mutex mutex_;
};

}  // namespace engine::server
