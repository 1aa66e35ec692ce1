// The output items of /v1/responses as they grow: thoughts, messages and calls of functions, with the events that tell of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "server/answer_reader.h"

namespace engine::server {

class ResponseOutput {
 public:
  /// `send` gets an event's type and data; empty: nobody listens, and calls that break off leave no item.
  ResponseOutput(std::string request_id, const Work& work, std::function<void(const char* type, Json data)> send)
      : request_id_(std::move(request_id)), work_(work), send_(std::move(send)) {}

  void add(const std::vector<AnswerPart>& parts);
  /// `cut`: the answer did not end by itself.
  void finish(bool cut);
  const Json& items() const { return items_; }
  const std::string& reasoning() const { return reasoning_; }  // of all items

 private:
  enum class Kind { message, reasoning, call };

  void begin(Kind kind, Json item);
  void begin_written(Kind kind);  // a message or a thought
  void begin_call(const std::string& name);
  void add_text(Kind kind, const std::string& text);
  void end(const char* status);
  void end_call();
  void end_written();
  void send(const char* type, Json data);
  Json place() const;

  const std::string request_id_;
  const Work& work_;
  const std::function<void(const char*, Json)> send_;
  Json items_ = Json::array();  // the last one without its text while it is open
  bool open_ = false;
  Kind kind_ = Kind::message;  // of the last item
  std::string text_;           // of the open item
  std::string reasoning_;
};

}  // namespace engine::server
