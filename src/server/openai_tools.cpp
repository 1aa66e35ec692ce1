// Tools: what a request may offer the model goes into the chat template. Calls come back as the text that the model writes.
#include <algorithm>

#include "server/openai.h"

namespace engine::server {
namespace {

constexpr size_t max_tools = 128, max_tool_name = 64;  // as OpenAI's

bool is_tool_name(const Json& name) {
  if (!name.is_string()) return false;
  const std::string& text = name.get_ref<const std::string&>();
  const auto plain = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.size() <= max_tool_name && std::all_of(text.begin(), text.end(), plain);
}

/// /v1/responses has the function's fields beside the type, chat in an object of their own.
Json read_tool(const Json& tool, const std::string& where) {
  if (!tool.is_object()) bad_field(where, "an object", tool);
  if (tool.value("type", Json()) != "function") {
    throw ApiError(400, where + ".type: expected function; other tools are not supported here", where + ".type", "unsupported_parameter");
  }
  Json function = Json::object();
  if (const auto nested = tool.find("function"); nested != tool.end()) {
    if (!nested->is_object()) bad_field(where + ".function", "an object", *nested);
    function = *nested;
  } else {
    for (const auto& [key, value] : tool.items()) {
      if (key != "type") function[key] = value;
    }
  }
  const Json name = function.value("name", Json());
  if (!is_tool_name(name)) bad_field(where + ".function.name", "1 to 64 letters, digits, '_', '-' or '.'", name);
  if (const Json p = function.value("parameters", Json()); !p.is_null() && !p.is_object()) bad_field(where + ".function.parameters", "an object", p);
  if (function.value("strict", Json()) == true) {
    throw ApiError(400, where + ".function.strict: is not supported here", where + ".function.strict", "unsupported_parameter");
  }
  function.erase("strict");
  return {{"type", "function"}, {"function", std::move(function)}};
}

}  // namespace

Json read_tools(Fields& fields) {
  fields.only("tool_choice", {"none", "auto"});
  const Json* tools = fields.find("tools");
  if (tools == nullptr) return {};
  if (!tools->is_array()) bad_field("tools", "a list", *tools);
  if (tools->size() > max_tools) {
    throw ApiError(400, "tools: expected at most " + std::to_string(max_tools) + ", got " + std::to_string(tools->size()), "tools");
  }
  Json out = Json::array();
  for (size_t i = 0; i < tools->size(); ++i) out.push_back(read_tool((*tools)[i], "tools[" + std::to_string(i) + "]"));
  const Json* choice = fields.find("tool_choice");
  return out.empty() || (choice != nullptr && *choice == "none") ? Json() : out;
}

std::vector<int32_t> encode_conversation(App& app, const Json& messages, const ChatRenderOptions& render) {
  std::vector<int32_t> ids = app.engine.encode_chat(messages, render);
  if (render.tools.is_null()) return ids;
  ChatRenderOptions without = render;
  without.tools = nullptr;
  // Tools that never reach the model would be a promise that nobody keeps.
  if (app.engine.chat_template()->render_text(messages, without) == app.engine.chat_template()->render_text(messages, render)) {
    throw ApiError(400, "tools: this model's chat template has no place for them", "tools", "unsupported_parameter");
  }
  return ids;
}

Json checked_tool_calls(const Json& calls, const std::string& where) {
  if (!calls.is_array()) bad_field(where, "a list", calls);
  Json out = calls;
  for (Json& call : out) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) bad_field(where, "objects with a function", call);
    const auto arguments = call["function"].find("arguments");
    if (arguments == call["function"].end() || !arguments->is_string()) continue;
    // OpenAI has JSON in a string here; templates are written for the object, as Transformers has it.
    try {
      Json parsed = parse_json(arguments->get_ref<const std::string&>(), where, true);
      if (parsed.is_object()) *arguments = std::move(parsed);
    } catch (const Error&) {  // what a model wrote is not always JSON: it is shown as it was
    }
  }
  return out;
}

}  // namespace engine::server
