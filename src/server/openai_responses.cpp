// POST /v1/responses. Nothing is kept between requests: the whole conversation comes in `input` each time.
#include "server/openai_responses.h"

#include "server/openai.h"
#include "server/response_output.h"

namespace engine::server {
namespace {

struct ResponseRequest {
  Generation generation;
  Json echoed;  // the fields of the response that repeat the request's
};

/// The text of an item of thoughts.
std::string reasoning_of(const Json& item) {
  std::string text;
  for (const char* name : {"content", "summary"}) {
    const Json parts = item.value(name, Json());
    if (!parts.is_null() && !parts.is_array()) bad_field(std::string("input.") + name, "a list", parts);
    for (const Json& part : parts) {
      const Json piece = part.is_object() ? part.value("text", Json()) : Json();
      if (!piece.is_string()) bad_field(std::string("input.") + name, "parts with a text", part);
      text += piece.get_ref<const std::string&>();
    }
    if (!text.empty()) break;  // the thoughts themselves, not what sums them up
  }
  return text;
}

/// An assistant's message with the thoughts that came before it, in the field that templates know.
Json assistant_message(std::string& reasoning) {
  Json message = {{"role", "assistant"}, {"content", ""}};
  if (!reasoning.empty()) message["reasoning_content"] = std::exchange(reasoning, {});
  return message;
}

/// Items of calls, as messages: a call belongs to the assistant's message before it, its result is a message of the tool.
void add_call_item(const Json& item, bool is_call, std::string& reasoning, Json& messages) {
  const auto text = [&](const char* name) {
    const Json value = item.value(name, Json());
    if (!value.is_string()) bad_field(std::string("input.") + name, "a string", value);
    return value;
  };
  if (!is_call) {
    const Json output = item.value("output", Json());
    messages.push_back({{"role", "tool"}, {"tool_call_id", text("call_id")}, {"content", output}});
    return;
  }
  const Json call = {{"id", text("call_id")}, {"type", "function"}, {"function", {{"name", text("name")}, {"arguments", text("arguments")}}}};
  if (messages.empty() || messages.back()["role"] != "assistant" || !reasoning.empty()) messages.push_back(assistant_message(reasoning));
  messages.back()["tool_calls"].push_back(call);
}

/// The conversation: `instructions` as a system message, and `input`, a text or a list of messages.
Json read_input(const Json& input, const std::optional<std::string>& instructions) {
  Json messages = Json::array();
  if (instructions) messages.push_back({{"role", "system"}, {"content", *instructions}});
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", input}});
    return messages;
  }
  if (!input.is_array()) bad_field("input", "a string or a list of messages", input);
  std::string reasoning;  // of the assistant's next message
  for (const Json& item : input) {
    if (!item.is_object()) bad_field("input", "messages", item);
    const Json type = item.value("type", Json("message"));
    if (type == "function_call" || type == "function_call_output") {
      add_call_item(item, type == "function_call", reasoning, messages);
      continue;
    }
    if (type == "reasoning") {
      reasoning = reasoning_of(item);
      continue;
    }
    if (type != "message") throw ApiError(400, "input: expected items of type message, function_call, function_call_output or reasoning", "input", "unsupported_content");
    Json message = item.value("role", Json()) == "assistant" ? assistant_message(reasoning) : Json::object();
    for (const auto& [key, value] : item.items()) {
      if (key == "role" || key == "content") message[key] = value;
      else if (key != "type" && key != "id" && key != "status" && key != "phase") throw ApiError(400, "input: unknown field: " + key.substr(0, 100), "input", "unknown_parameter");
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

ResponseRequest read_response(App& app, const Request& request) {
  Fields fields(request.body);
  ResponseRequest r;
  r.generation = read_generation(app, fields, {"max_output_tokens"}, 0);
  if (r.generation.work.n != 1) throw ApiError(400, "n: expected 1", "n", "unsupported_parameter");
  fields.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
                 "prompt_cache_options", "max_tool_calls", "include", "moderation"});
  fields.only("previous_response_id", {});
  fields.only("conversation", {});
  fields.only("context_management", {});
  fields.only("prompt", {});
  fields.only("background", {false});
  fields.only("truncation", {"disabled"});
  Json format = {{"type", "text"}};
  if (const Json* text = fields.find("text")) {
    if (!text->is_object()) bad_field("text", "an object", *text);
    for (const auto& [key, value] : text->items()) {
      if (key != "format") throw ApiError(400, "text: unknown field: " + key.substr(0, 100), "text", "unknown_parameter");
      if (!value.is_null()) read_answer_format(app, format = value, "text.format", false, r.generation.work);
    }
  }
  fields.only("reasoning", {Json::object(), {{"effort", nullptr}, {"summary", nullptr}}});
  fields.only("top_logprobs", {0});
  const auto instructions = fields.text("instructions");
  ChatRenderOptions render;
  const Tools tools = read_tools(fields);
  offer_tools(app, tools, render);
  const Json* input = fields.find("input");
  fields.finish();
  if (input == nullptr) throw ApiError(400, "input: expected a string or a list, got nothing", "input", "missing_required_parameter");
  add_prompt(app, r.generation, encode_conversation(app, read_messages(read_input(*input, instructions)), render), "input");
  read_answers(app, tools, r.generation);
  const auto or_null = [&](const char* name) { return fields.object().value(name, Json()); };
  r.echoed = {{"instructions", or_null("instructions")}, {"max_output_tokens", or_null("max_output_tokens")},
              {"temperature", or_null("temperature")},   {"top_p", or_null("top_p")},
              {"metadata", fields.object().value("metadata", Json::object())},
              {"text", {{"format", format}}},
              {"tools", or_null("tools").is_null() ? Json::array() : or_null("tools")},
              {"tool_choice", or_null("tool_choice").is_null() ? Json("auto") : or_null("tool_choice")}};
  return r;
}

bool is_cut(const GenerationResult& result) { return openai_finish_reason(result.reason) != std::string("stop"); }

/// The response as it stands; `result` null: in progress, and no output yet.
Json response_object(const Request& request, const ResponseRequest& r, const Work& work, const GenerationResult* result, const Json& output,
                     int64_t n_reasoning_tokens = 0) {
  const bool cut = result != nullptr && is_cut(*result);
  const char* status = result == nullptr ? "in_progress" : cut ? "incomplete" : "completed";
  Json out = {{"id", "resp_" + request.id}, {"object", "response"}, {"created_at", unix_time()}, {"status", status}, {"error", nullptr},
              {"incomplete_details", cut ? Json{{"reason", "max_output_tokens"}} : Json()}, {"model", r.generation.model},
              {"output", output}};
  out.update(r.echoed);
  out.update({{"parallel_tool_calls", !work.one_call}, {"previous_response_id", nullptr}, {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}},
              {"store", false}, {"truncation", "disabled"}, {"usage", nullptr}});
  if (result == nullptr) return out;
  const Json usage = usage_of(work, {*result});
  out["usage"] = {{"input_tokens", usage["prompt_tokens"]}, {"input_tokens_details", usage["prompt_tokens_details"]},
                  {"output_tokens", usage["completion_tokens"]}, {"output_tokens_details", {{"reasoning_tokens", n_reasoning_tokens}}},
                  {"total_tokens", usage["total_tokens"]}, {"timings", usage["timings"]}};
  return out;
}

Reply whole(App& app, const Request& request, ResponseRequest r) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(r.generation.work), request.disconnected);
  const std::vector<ChoiceState> states = collect_answer(app, *answer, request.disconnected);
  Reply reply;
  ResponseOutput output(request.id, answer->work, {});
  AnswerReader reader(answer->work);
  output.add(reader.read(states[0].text));
  output.add(reader.finish());
  output.finish(is_cut(*states[0].result));
  reply.body = dump_json(response_object(request, r, answer->work, &*states[0].result, output.items(), count_tokens(app, output.reasoning()))) + "\n";
  return reply;
}

Reply streamed(App& app, const Request& original, ResponseRequest r) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(r.generation.work), original.disconnected);
  Request request;  // what the events need of it
  request.id = original.id;
  Reply reply;
  reply.content_type = "text/event-stream";
  reply.stream = [&app, answer, request, r](Sink& sink) {
    int64_t sequence = 0;
    const auto send = [&](const char* type, Json data) {
      Json event = {{"type", type}, {"sequence_number", sequence++}};
      event.update(data);
      sink.write("event: " + std::string(type) + "\n" + event_text(event));
    };
    ResponseOutput output(request.id, answer->work, send);
    AnswerReader reader(answer->work);
    try {
      const Json begun = response_object(request, r, answer->work, nullptr, Json::array());
      send("response.created", {{"response", begun}});
      send("response.in_progress", {{"response", begun}});
      const std::vector<GenerationResult> results = stream_answer(app, *answer, sink, [&](const Answer::Piece& piece) { output.add(reader.read(piece.text)); });
      if (results.empty()) return;
      output.add(reader.finish());
      output.finish(is_cut(results[0]));
      const Json done = response_object(request, r, answer->work, &results[0], output.items(), count_tokens(app, output.reasoning()));
      send(done["status"] == "completed" ? "response.completed" : "response.incomplete", {{"response", done}});
    } catch (const ApiError& error) {
      answer->cancel();
      send("error", {{"code", error.code.empty() ? Json() : Json(error.code)}, {"message", error.message}, {"param", nullptr}});
    }
    sink.write("data: [DONE]\n\n");
  };
  return reply;
}

}  // namespace

Reply handle_responses(App& app, const Request& request) {
  ResponseRequest r = read_response(app, request);
  return r.generation.stream ? streamed(app, request, std::move(r)) : whole(app, request, std::move(r));
}

}  // namespace engine::server
