#include "server/response_output.h"

#include <utility>

namespace engine::server {
namespace {

/// A message's part or a thought's.
Json text_part(bool is_message, const std::string& text) {
  if (!is_message) return {{"type", "reasoning_text"}, {"text", text}};
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
}

}  // namespace

void ResponseOutput::send(const char* type, Json data) {
  if (send_) send_(type, std::move(data));
}

Json ResponseOutput::place() const { return {{"item_id", items_.back()["id"]}, {"output_index", items_.size() - 1}}; }

void ResponseOutput::add(const std::vector<AnswerPart>& parts) {
  for (const AnswerPart& part : parts) {
    switch (part.kind) {
      case AnswerPart::Kind::text: add_text(Kind::message, part.text); break;
      case AnswerPart::Kind::reasoning:
        reasoning_ += part.text;
        add_text(Kind::reasoning, part.text);
        break;
      case AnswerPart::Kind::call_begin: begin_call(part.text); break;
      case AnswerPart::Kind::arguments: {
        text_ += part.text;
        Json data = place();
        data["delta"] = part.text;
        send("response.function_call_arguments.delta", std::move(data));
        break;
      }
      case AnswerPart::Kind::call_end: end("completed"); break;
      case AnswerPart::Kind::call_broken:
        end("incomplete");
        if (!send_) items_.erase(items_.size() - 1);
        add_text(Kind::message, part.text);
        break;
    }
  }
}

void ResponseOutput::finish(bool cut) {
  if (items_.empty()) begin_written(Kind::message);
  if (open_) end(cut ? "incomplete" : "completed");
}

void ResponseOutput::begin(Kind kind, Json item) {
  if (open_) end("completed");
  items_.push_back(std::move(item));
  open_ = true;
  kind_ = kind;
  send("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", items_.back()}});
}

void ResponseOutput::begin_written(Kind kind) {
  const std::string number = items_.empty() ? "" : "_" + std::to_string(items_.size());
  if (kind == Kind::message) {
    begin(kind, {{"type", "message"}, {"id", "msg_" + request_id_ + number}, {"status", "in_progress"}, {"role", "assistant"}, {"content", Json::array()}});
  } else {
    begin(kind, {{"type", "reasoning"}, {"id", "rs_" + request_id_ + number}, {"status", "in_progress"}, {"summary", Json::array()}, {"content", Json::array()}});
  }
  Json data = place();
  data.update({{"content_index", 0}, {"part", text_part(kind == Kind::message, "")}});
  send("response.content_part.added", std::move(data));
}

void ResponseOutput::begin_call(const std::string& name) {
  begin(Kind::call, {{"type", "function_call"}, {"id", "fc_" + request_id_ + "_" + std::to_string(items_.size())}, {"call_id", new_call_id(work_)},
                     {"name", name}, {"arguments", ""}, {"status", "in_progress"}});
}

void ResponseOutput::add_text(Kind kind, const std::string& text) {
  if (!open_ || kind_ != kind) begin_written(kind);
  text_ += text;
  Json data = place();
  data.update({{"content_index", 0}, {"delta", text}});
  if (kind == Kind::message) data["logprobs"] = Json::array();
  send(kind == Kind::message ? "response.output_text.delta" : "response.reasoning_text.delta", std::move(data));
}

void ResponseOutput::end(const char* status) {
  items_.back()["status"] = status;
  if (kind_ == Kind::call) end_call();
  else end_written();
  open_ = false;
  text_.clear();
  send("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", items_.back()}});
}

void ResponseOutput::end_call() {
  items_.back()["arguments"] = text_;
  Json data = place();
  data.update({{"name", items_.back()["name"]}, {"arguments", text_}});
  send("response.function_call_arguments.done", std::move(data));
}

void ResponseOutput::end_written() {
  const bool is_message = kind_ == Kind::message;
  items_.back()["content"].push_back(text_part(is_message, text_));
  Json data = place();
  data.update({{"content_index", 0}, {"text", text_}});
  if (is_message) data["logprobs"] = Json::array();
  send(is_message ? "response.output_text.done" : "response.reasoning_text.done", std::move(data));
  data = place();
  data.update({{"content_index", 0}, {"part", text_part(is_message, text_)}});
  send("response.content_part.done", std::move(data));
}

}  // namespace engine::server
