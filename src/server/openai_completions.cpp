// POST /v1/completions, GET /v1/models, and the table of OpenAI's routes.
#include "server/openai.h"
#include "server/openai_responses.h"
#include "text/tokenizer.h"

namespace engine::server {
namespace {

constexpr size_t max_prompts = 16;
constexpr int64_t max_logprobs = 5;            // as OpenAI's
constexpr int64_t default_max_tokens = 16;     // as OpenAI's

struct CompletionRequest {
  Generation generation;
  bool logprobs = false, echo = false;
  std::vector<std::string> prompt_texts;  // with echo
};

std::vector<int32_t> read_ids(const App& app, const Json& list) {
  const int32_t vocab = app.engine.model().spec().vocab_size;
  std::vector<int32_t> ids;
  for (const Json& item : list) {
    const bool fits = item.is_number_integer() && item >= 0 && item < vocab;
    if (!fits) bad_field("prompt", "token ids below " + std::to_string(vocab), item);
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

/// A text, a list of ids, or a list of either.
void read_prompts(App& app, const Json& prompt, CompletionRequest& r) {
  const auto add = [&](const Json& one) {
    std::vector<int32_t> ids = one.is_string() ? app.engine.tokenizer().encode(one.get_ref<const std::string&>(), true) : read_ids(app, one);
    if (r.echo) r.prompt_texts.push_back(one.is_string() ? one.get<std::string>() : app.engine.tokenizer().decode(ids, true));
    add_prompt(app, r.generation, std::move(ids), "prompt");
  };
  const bool single = prompt.is_string() || (prompt.is_array() && (prompt.empty() || prompt[0].is_number()));
  if (single) return add(prompt);
  if (!prompt.is_array()) bad_field("prompt", "a string, a list of strings or token ids", prompt);
  if (prompt.size() > max_prompts) {
    throw ApiError(400, "prompt: expected at most " + std::to_string(max_prompts) + ", got " + std::to_string(prompt.size()), "prompt");
  }
  for (const Json& one : prompt) {
    if (!one.is_string() && !one.is_array()) bad_field("prompt", "strings or lists of token ids", one);
    add(one);
  }
}

CompletionRequest read_completion(App& app, const Request& request) {
  Fields fields(request.body);
  CompletionRequest r;
  r.generation = read_generation(app, fields, {"max_tokens"}, default_max_tokens);
  r.echo = fields.boolean("echo").value_or(false);
  if (const auto n = fields.integer("logprobs", 0, max_logprobs)) {
    r.logprobs = true;
    r.generation.work.n_logprobs = static_cast<int>(*n);
  }
  if (r.echo && r.logprobs) throw ApiError(400, "echo: is not supported together with logprobs", "echo", "unsupported_parameter");
  fields.ignore({"user"});
  fields.only("suffix", {""});
  fields.only("best_of", {1, r.generation.work.n});
  const Json* prompt = fields.find("prompt");
  fields.finish();
  if (prompt == nullptr) throw ApiError(400, "prompt: expected a string or a list, got nothing", "prompt", "missing_required_parameter");
  read_prompts(app, *prompt, r);
  return r;
}

/// The older form: parallel lists. `offset`: characters before, advanced by the tokens' own.
Json logprobs_of(const App& app, const std::vector<TokenRecord>& tokens, int64_t& offset) {
  Json texts = Json::array(), scores = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const TokenRecord& record : tokens) {
    const std::string text = token_text(app, record.chosen.id);
    texts.push_back(text);
    scores.push_back(record.chosen.logprob);
    Json top = Json::object();
    for (const TokenScore& score : record.top) top[token_text(app, score.id)] = score.logprob;
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    for (const char c : text) offset += (c & 0xC0) != 0x80;
  }
  return {{"tokens", texts}, {"token_logprobs", scores}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json head_of(const Request& request, const Generation& g) {
  return {{"id", "cmpl-" + request.id}, {"object", "text_completion"}, {"created", unix_time()}, {"model", g.model}};
}

std::string echoed(const CompletionRequest& r, size_t choice, int n) { return r.echo ? r.prompt_texts[choice / static_cast<size_t>(n)] : std::string(); }

Reply whole(App& app, const Request& request, CompletionRequest r) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(r.generation.work), request.disconnected);
  const std::vector<ChoiceState> states = collect_answer(app, *answer, request.disconnected);
  Json body = head_of(request, r.generation);
  body["choices"] = Json::array();
  std::vector<GenerationResult> results;
  for (size_t i = 0; i < states.size(); ++i) {
    int64_t offset = 0;
    body["choices"].push_back({{"text", echoed(r, i, answer->work.n) + states[i].text},
                               {"index", i},
                               {"logprobs", r.logprobs ? logprobs_of(app, states[i].tokens, offset) : Json()},
                               {"finish_reason", openai_finish_reason(states[i].result->reason)}});
    results.push_back(*states[i].result);
  }
  body["usage"] = usage_of(answer->work, results);
  Reply reply;
  reply.body = dump_json(body) + "\n";
  return reply;
}

Reply streamed(App& app, const Request& request, CompletionRequest r) {
  const std::shared_ptr<Answer> answer = start_answer(app, std::move(r.generation.work), request.disconnected);
  Json head = head_of(request, r.generation);
  if (r.generation.include_usage) head["usage"] = nullptr;
  Reply reply;
  reply.content_type = "text/event-stream";
  reply.stream = [&app, answer, head, r](Sink& sink) {
    std::vector<int64_t> offsets(static_cast<size_t>(answer->work.n_choices()));
    const auto send = [&](int choice, const std::string& text, Json logprobs, Json finish) {
      Json chunk = head;
      chunk["choices"] =
          Json::array({{{"text", text}, {"index", choice}, {"logprobs", std::move(logprobs)}, {"finish_reason", std::move(finish)}}});
      sink.write(event_text(chunk));
    };
    try {
      for (int i = 0; r.echo && i < answer->work.n_choices(); ++i) send(i, echoed(r, static_cast<size_t>(i), answer->work.n), nullptr, nullptr);
      const std::vector<GenerationResult> results = stream_answer(app, *answer, sink, [&](const Answer::Piece& piece) {
        int64_t& offset = offsets[static_cast<size_t>(piece.choice)];
        if (!piece.text.empty() || !piece.tokens.empty()) {
          send(piece.choice, piece.text, r.logprobs ? logprobs_of(app, piece.tokens, offset) : Json(), nullptr);
        }
        if (piece.result && piece.result->reason != FinishReason::error) send(piece.choice, "", nullptr, openai_finish_reason(piece.result->reason));
      });
      if (results.empty()) return;
      if (r.generation.include_usage) {
        Json chunk = head;
        chunk["choices"] = Json::array();
        chunk["usage"] = usage_of(answer->work, results);
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

Json model_object(const App& app) {
  static const int64_t started = unix_time();
  const int64_t context = app.engine.scheduler().context();
  return {{"id", app.options.model_name}, {"object", "model"},          {"created", started},
          {"owned_by", "engine"},         {"context_length", context}, {"max_model_len", context}};
}

Reply handle_models(App& app, const Request&) {
  Reply reply;
  reply.body = dump_json({{"object", "list"}, {"data", Json::array({model_object(app)})}}) + "\n";
  return reply;
}

Reply handle_model(App& app, const Request& request) {
  check_model(app, request.path.substr(std::string_view("/v1/models/").size()));
  Reply reply;
  reply.body = dump_json(model_object(app)) + "\n";
  return reply;
}

}  // namespace

Reply handle_completions(App& app, const Request& request) {
  CompletionRequest r = read_completion(app, request);
  return r.generation.stream ? streamed(app, request, std::move(r)) : whole(app, request, std::move(r));
}

std::span<const Route> openai_routes() {
  static const Route routes[] = {
      {"POST", "/v1/chat/completions", handle_chat, openai_error},
      {"POST", "/v1/completions", handle_completions, openai_error},
      {"POST", "/v1/responses", handle_responses, openai_error},
      {"GET", "/v1/models", handle_models, openai_error},
      {"GET", "/v1/models/*", handle_model, openai_error},
  };
  return routes;
}

}  // namespace engine::server
