#include "server/response_output.h"

#include <utility>

namespace engine::server {
namespace {

Json text_part(const std::string& text) { return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}}; }

}  // namespace

void ResponseOutput::send(const char* type, Json data) {
  if (send_) send_(type, std::move(data));
}

Json ResponseOutput::place() const { return {{"item_id", items_.back()["id"]}, {"output_index", items_.size() - 1}}; }

void ResponseOutput::add(const std::vector<AnswerPart>& parts) {
  using Kind = AnswerPart::Kind;
  for (const AnswerPart& part : parts) {
    switch (part.kind) {
      case Kind::text: add_text(part.text); break;
      case Kind::reasoning: break;  // thoughts are not shown here
      case Kind::call_begin: begin_call(part.text); break;
      case Kind::arguments: {
        text_ += part.text;
        Json data = place();
        data["delta"] = part.text;
        send("response.function_call_arguments.delta", std::move(data));
        break;
      }
      case Kind::call_end: end("completed"); break;
      case Kind::call_broken:
        end("incomplete");
        if (!send_) items_.erase(items_.size() - 1);
        add_text(part.text);
        break;
    }
  }
}

void ResponseOutput::finish(bool cut) {
  if (items_.empty()) begin_message();
  if (open_) end(cut ? "incomplete" : "completed");
}

void ResponseOutput::begin_message() {
  const std::string number = items_.empty() ? "" : "_" + std::to_string(items_.size());
  items_.push_back({{"type", "message"}, {"id", "msg_" + request_id_ + number}, {"status", "in_progress"}, {"role", "assistant"}, {"content", Json::array()}});
  open_ = true;
  is_call_ = false;
  send("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", items_.back()}});
  Json data = place();
  data.update({{"content_index", 0}, {"part", text_part("")}});
  send("response.content_part.added", std::move(data));
}

void ResponseOutput::begin_call(const std::string& name) {
  if (open_) end("completed");
  items_.push_back({{"type", "function_call"}, {"id", "fc_" + request_id_ + "_" + std::to_string(items_.size())}, {"call_id", new_call_id(work_)},
                    {"name", name}, {"arguments", ""}, {"status", "in_progress"}});
  open_ = is_call_ = true;
  send("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", items_.back()}});
}

void ResponseOutput::add_text(const std::string& text) {
  if (!open_) begin_message();
  text_ += text;
  Json data = place();
  data.update({{"content_index", 0}, {"delta", text}, {"logprobs", Json::array()}});
  send("response.output_text.delta", std::move(data));
}

void ResponseOutput::end(const char* status) {
  const std::string text = std::exchange(text_, {});
  Json& item = items_.back();
  item["status"] = status;
  Json data = place();
  if (is_call_) {
    item["arguments"] = text;
    data.update({{"name", item["name"]}, {"arguments", text}});
    send("response.function_call_arguments.done", std::move(data));
  } else {
    item["content"].push_back(text_part(text));
    data.update({{"content_index", 0}, {"text", text}, {"logprobs", Json::array()}});
    send("response.output_text.done", data);
    data = place();
    data.update({{"content_index", 0}, {"part", text_part(text)}});
    send("response.content_part.done", std::move(data));
  }
  open_ = false;
  send("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", item}});
}

}  // namespace engine::server
