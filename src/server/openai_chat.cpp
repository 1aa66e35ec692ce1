// POST /v1/chat/completions.
#include "server/answer_reader.h"
#include "server/openai.h"

namespace engine::server {
namespace {

constexpr int64_t max_top_logprobs = 20;

Json token_score(const App& app, const TokenScore& score) {
  const std::string text = token_text(app, score.id);
  Json bytes;  // null: a part of a character has no text of its own
  if (text.find("\xEF\xBF\xBD") == std::string::npos) {
    bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  }
  return {{"token", text}, {"logprob", score.logprob}, {"bytes", bytes}};
}

Json logprobs_of(const App& app, const std::vector<TokenRecord>& tokens) {
  Json content = Json::array();
  for (const TokenRecord& record : tokens) {
    Json entry = token_score(app, record.chosen);
    entry["top_logprobs"] = Json::array();
    for (const TokenScore& score : record.top) entry["top_logprobs"].push_back(token_score(app, score));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

struct ChatRequest {
  Generation generation;
  bool logprobs = false;
};

ChatRenderOptions read_render_options(Fields& fields) {
  ChatRenderOptions render;
  render.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  render.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(!render.continue_final_message);
  if (render.continue_final_message && render.add_generation_prompt) {
    throw ApiError(400, "continue_final_message: goes with add_generation_prompt false only", "continue_final_message", "invalid_value");
  }
  if (const Json* documents = fields.find("documents")) {
    if (!documents->is_array()) bad_field("documents", "a list", *documents);
    render.documents = *documents;
  }
  if (const Json* extra = fields.find("chat_template_kwargs")) {
    if (!extra->is_object()) bad_field("chat_template_kwargs", "an object", *extra);
    render.extra = *extra;
  }
  if (const auto effort = fields.text("reasoning_effort")) render.extra["reasoning_effort"] = *effort;
  return render;
}

ChatRequest read_chat(App& app, const Request& request) {
  Fields fields(request.body);
  ChatRequest chat;
  chat.generation = read_generation(app, fields, {"max_tokens", "max_completion_tokens"}, 0);
  chat.logprobs = fields.boolean("logprobs").value_or(false);
  const auto n_top = fields.integer("top_logprobs", 0, max_top_logprobs);
  if (n_top && !chat.logprobs) throw ApiError(400, "top_logprobs: goes with logprobs true only", "top_logprobs", "invalid_value");
  if (chat.logprobs) chat.generation.work.n_logprobs = static_cast<int>(n_top.value_or(0));
  ChatRenderOptions render = read_render_options(fields);
  const Tools tools = read_tools(fields);
  offer_tools(app, tools, render);
  fields.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
                 "prompt_cache_options", "verbosity", "prediction", "moderation"});
  fields.only("functions", {Json::array()});
  fields.only("function_call", {"none", "auto"});
  if (const Json* format = fields.find("response_format")) read_answer_format(app, *format, "response_format", true, chat.generation.work);
  fields.only("modalities", {Json::array({"text"})});
  fields.only("audio", {});
  fields.only("web_search_options", {});
  const Json* messages = fields.find("messages");
  fields.finish();
  if (messages == nullptr) throw ApiError(400, "messages: expected a list, got nothing", "messages", "missing_required_parameter");
  add_prompt(app, chat.generation, encode_conversation(app, read_messages(*messages), render), "messages");
  read_answers(app, tools, chat.generation);
  return chat;
}

const char* finish_reason_of(const GenerationResult& result, int n_calls) {
  return result.reason == FinishReason::stop && n_calls > 0 ? "tool_calls" : openai_finish_reason(result.reason);
}

Json message_of(const ReadAnswer& answer) {
  Json message = {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}};
  if (!answer.reasoning.empty()) message["reasoning_content"] = answer.reasoning;
  if (answer.calls.empty()) return message;
  if (answer.text.empty()) message["content"] = nullptr;
  message["tool_calls"] = Json::array();
  for (const ToolCall& call : answer.calls) {
    message["tool_calls"].push_back({{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return message;
}

/// One choice of a stream: what its parts are as deltas.
struct StreamedChoice {
  AnswerReader reader;
  int n_begun = 0;  // calls
  std::string reasoning = {};

  Json delta_of(const Work& work, const AnswerPart& part) {
    using Kind = AnswerPart::Kind;
    const auto call = [&](Json fields) {
      Json entry = {{"index", n_begun - 1}};
      entry.update(fields);
      return Json{{"tool_calls", Json::array({std::move(entry)})}};
    };
    switch (part.kind) {
      case Kind::reasoning: reasoning += part.text; return {{"reasoning_content", part.text}};
      case Kind::call_begin:
        ++n_begun;
        return call({{"id", new_call_id(work)}, {"type", "function"}, {"function", {{"name", part.text}, {"arguments", ""}}}});
      case Kind::arguments: return call({{"function", {{"arguments", part.text}}}});
      case Kind::call_end: return nullptr;
      default: return {{"content", part.text}};
    }
  }
};

Json usage_with(const Work& work, const std::vector<GenerationResult>& results, int64_t n_reasoning_tokens) {
  Json usage = usage_of(work, results);
  if (n_reasoning_tokens > 0) usage["completion_tokens_details"] = {{"reasoning_tokens", n_reasoning_tokens}};
  return usage;
}

Json head_of(const Request& request, const Generation& g, const char* object) {
  return {{"id", "chatcmpl-" + request.id}, {"object", object}, {"created", unix_time()}, {"model", g.model}};
}

Reply whole(App& app, const Request& request, ChatRequest chat) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(chat.generation.work), request.disconnected);
  const std::vector<ChoiceState> states = collect_answer(app, *answer, request.disconnected);
  Json body = head_of(request, chat.generation, "chat.completion");
  body["choices"] = Json::array();
  std::vector<GenerationResult> results;
  int64_t n_reasoning_tokens = 0;
  for (size_t i = 0; i < states.size(); ++i) {
    const ReadAnswer read = read_answer(answer->work, states[i].text);
    n_reasoning_tokens += count_tokens(app, read.reasoning);
    body["choices"].push_back({{"index", i},
                               {"message", message_of(read)},
                               {"logprobs", chat.logprobs ? logprobs_of(app, states[i].tokens) : Json()},
                               {"finish_reason", finish_reason_of(*states[i].result, static_cast<int>(read.calls.size()))}});
    results.push_back(*states[i].result);
  }
  body["usage"] = usage_with(answer->work, results, n_reasoning_tokens);
  Reply reply;
  reply.body = dump_json(body) + "\n";
  return reply;
}

Reply streamed(App& app, const Request& request, ChatRequest chat) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(chat.generation.work), request.disconnected);
  Json head = head_of(request, chat.generation, "chat.completion.chunk");
  if (chat.generation.include_usage) head["usage"] = nullptr;
  Reply reply;
  reply.content_type = "text/event-stream";
  reply.stream = [&app, answer, head, chat](Sink& sink) {
    const auto send = [&](int choice, Json delta, Json logprobs, Json finish) {
      Json chunk = head;
      chunk["choices"] = Json::array(
          {{{"index", choice}, {"delta", std::move(delta)}, {"logprobs", std::move(logprobs)}, {"finish_reason", std::move(finish)}}});
      sink.write(event_text(chunk));
    };
    try {
      std::vector<StreamedChoice> choices;
      for (int i = 0; i < answer->work.n_choices(); ++i) {
        choices.push_back({AnswerReader(answer->work)});
        send(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
      }
      const std::vector<GenerationResult> results = stream_answer(app, *answer, sink, [&](const Answer::Piece& piece) {
        StreamedChoice& choice = choices[static_cast<size_t>(piece.choice)];
        const bool finished = piece.result && piece.result->reason != FinishReason::error;
        std::vector<Json> deltas;
        const auto add = [&](const std::vector<AnswerPart>& parts) {
          for (const AnswerPart& part : parts) {
            if (Json delta = choice.delta_of(answer->work, part); !delta.is_null()) deltas.push_back(std::move(delta));
          }
        };
        add(choice.reader.read(piece.text));
        if (finished) add(choice.reader.finish());
        Json logprobs = chat.logprobs && !piece.tokens.empty() ? logprobs_of(app, piece.tokens) : Json();
        if (deltas.empty() && !logprobs.is_null()) deltas.push_back({{"content", ""}});  // of text that is held back
        for (Json& delta : deltas) send(piece.choice, std::move(delta), std::exchange(logprobs, nullptr), nullptr);
        if (finished) send(piece.choice, Json::object(), nullptr, finish_reason_of(*piece.result, choice.reader.n_calls()));
      });
      if (results.empty()) return;
      if (chat.generation.include_usage) {
        Json chunk = head;
        chunk["choices"] = Json::array();
        int64_t n_reasoning_tokens = 0;
        for (const StreamedChoice& choice : choices) n_reasoning_tokens += count_tokens(app, choice.reasoning);
        chunk["usage"] = usage_with(answer->work, results, n_reasoning_tokens);
        sink.write(event_text(chunk));
      }
    } catch (const ApiError& error) {
      answer->cancel();
      sink.write("data: " + openai_error(error).body + "\n");
    }
    sink.write("data: [DONE]\n\n");
  };
  return reply;
}

}  // namespace

Reply handle_chat(App& app, const Request& request) {
  ChatRequest chat = read_chat(app, request);
  return chat.generation.stream ? streamed(app, request, std::move(chat)) : whole(app, request, std::move(chat));
}

}  // namespace engine::server
