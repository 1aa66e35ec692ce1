#include "server/utility_routes.h"

#include <cstdio>

#include "base/machine.h"
#include "server/openai.h"
#include "text/tokenizer.h"

namespace engine::server {
namespace {

Reply json_reply(const Json& body) {
  Reply reply;
  reply.body = dump_json(body) + "\n";
  return reply;
}

Reply handle_health(App& app, const Request&) {
  if (app.service.draining()) throw ApiError(503, "the server is going down", "", "draining");
  return json_reply({{"status", "ok"}});
}

Reply handle_tokenize(App& app, const Request& request) {
  Fields fields(request.body);
  const auto text = fields.text("content"), prompt = fields.text("prompt"), plain = fields.text("text");
  const bool special = fields.boolean("add_special_tokens").value_or(true);
  const bool with_pieces = fields.boolean("with_pieces").value_or(false);
  fields.ignore({"model"});
  fields.finish();
  const auto& given = plain ? plain : prompt ? prompt : text;
  if (!given) throw ApiError(400, "text: expected a string, got nothing", "text", "missing_required_parameter");
  const std::vector<int32_t> ids = app.engine.tokenizer().encode(*given, special);
  Json body = {{"tokens", ids}, {"count", ids.size()}};
  if (with_pieces) {
    body["pieces"] = Json::array();
    for (const int32_t id : ids) body["pieces"].push_back(app.engine.tokenizer().id_to_token(id));
  }
  return json_reply(body);
}

Reply handle_detokenize(App& app, const Request& request) {
  Fields fields(request.body);
  const Json* tokens = fields.find("tokens");
  const bool skip = fields.boolean("skip_special_tokens").value_or(false);
  fields.ignore({"model"});
  fields.finish();
  if (tokens == nullptr || !tokens->is_array()) throw ApiError(400, "tokens: expected a list of token ids", "tokens", "invalid_value");
  std::vector<int32_t> ids;
  for (const Json& item : *tokens) {
    if (!item.is_number_integer() || item < 0 || item > INT32_MAX) bad_field("tokens", "token ids", item);
    ids.push_back(item.get<int32_t>());
  }
  return json_reply({{"text", app.engine.tokenizer().decode(ids, skip)}});
}

Reply handle_apply_template(App& app, const Request& request) {
  Fields fields(request.body);
  ChatRenderOptions render;
  render.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  render.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(!render.continue_final_message);
  if (const Json* extra = fields.find("chat_template_kwargs")) {
    if (!extra->is_object()) bad_field("chat_template_kwargs", "an object", *extra);
    render.extra = *extra;
  }
  offer_tools(app, read_tools(fields), render);
  const Json* messages = fields.find("messages");
  fields.ignore({"model"});
  fields.finish();
  if (messages == nullptr) throw ApiError(400, "messages: expected a list, got nothing", "messages", "missing_required_parameter");
  const Json checked = read_messages(*messages);
  const std::vector<int32_t> ids = encode_conversation(app, checked, render);  // first: it says what is wrong with a template
  return json_reply({{"prompt", app.engine.chat_template()->render_text(checked, render)}, {"tokens", ids}, {"count", ids.size()}});
}

/// `transformers chat` asks for this before it talks: events, the last of which says that the model is there. Ours always is.
Reply handle_load_model(App& app, const Request& request) {
  Fields fields(request.body);
  const auto model = fields.text("model");
  fields.finish();
  Reply reply;
  reply.content_type = "text/event-stream";
  const Json event = {{"status", "ready"}, {"model", model.value_or(app.options.model_name)}, {"cached", true}, {"stage", "loaded"}};
  reply.stream = [text = event_text(event)](Sink& sink) { sink.write(text); };
  return reply;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

/// Prometheus' text format.
class MetricsText {
 public:
  void add(const char* name, const char* type, const char* help, double value) {
    head(name, type, help);
    line(name, "", value);
  }
  void head(const char* name, const char* type, const char* help) {
    text += std::string("# HELP engine_") + name + " " + help + "\n# TYPE engine_" + name + " " + type + "\n";
  }
  void line(const std::string& name, const std::string& labels, double value) {
    char number[40];
    std::snprintf(number, sizeof number, "%.17g", value);
    text += "engine_" + name + (labels.empty() ? "" : "{" + labels + "}") + " " + number + "\n";
  }
  std::string text;
};

Reply handle_metrics(App& app, const Request&) {
  const ServiceMetrics& m = app.service.metrics();
  MetricsText out;
  const auto n = [](const auto& value) { return static_cast<double>(value.load()); };
  out.head("requests_total", "counter", "HTTP requests by path and status.");
  for (const auto& [key, count] : app.request_counts()) {
    out.line("requests_total", "path=\"" + escaped(key.first) + "\",status=\"" + std::to_string(key.second) + "\"", static_cast<double>(count));
  }
  out.add("running", "gauge", "Answers being computed.", n(m.running));
  out.add("waiting", "gauge", "Answers that wait for their turn.", std::max(0.0, n(m.queued)));
  out.add("prompt_tokens_total", "counter", "Tokens of prompts.", n(m.prompt_tokens));
  out.add("cached_tokens_total", "counter", "Tokens of prompts found in the prefix cache.", n(m.cached_tokens));
  out.add("completion_tokens_total", "counter", "Tokens generated.", n(m.completion_tokens));
  out.add("draft_tokens_total", "counter", "Tokens guessed by the draft model.", n(m.draft_tokens));
  out.add("accepted_tokens_total", "counter", "Guesses that stood.", n(m.accepted_tokens));
  out.add("answers_finished_total", "counter", "Answers that came to their end.", n(m.finished));
  out.add("answers_cancelled_total", "counter", "Answers whose client left.", n(m.cancelled));
  out.add("answers_timed_out_total", "counter", "Answers cut off by their deadline.", n(m.timed_out));
  out.add("rejected_total", "counter", "Requests refused because too many were waiting.", n(m.rejected));
  out.add("steps_total", "counter", "Forward passes.", n(m.steps));
  out.add("decode_seconds_total", "counter", "Time between first and last tokens, over all answers.", n(m.decode_us) / 1e6);
  out.add("kv_bytes", "gauge", "KV cache in use, the prefix cache's share included.", n(m.kv_bytes));
  out.add("resident_bytes", "gauge", "Memory of the process.", static_cast<double>(process_memory().resident));
  out.head("first_token_seconds", "histogram", "From a request's arrival to its first token.");
  double sum = 0;
  for (size_t i = 0; i < std::size(m.first_token); ++i) {
    sum += n(m.first_token[i]);
    char bound[32] = "+Inf";
    if (i < std::size(first_token_bounds)) std::snprintf(bound, sizeof bound, "%g", first_token_bounds[i]);
    out.line("first_token_seconds_bucket", std::string("le=\"") + bound + "\"", sum);
  }
  out.line("first_token_seconds_sum", "", n(m.first_token_us) / 1e6);
  out.line("first_token_seconds_count", "", sum);
  Reply reply;
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  reply.body = std::move(out.text);
  return reply;
}

}  // namespace

std::span<const Route> utility_routes() {
  static const Route routes[] = {
      {"GET", "/health", handle_health, openai_error, true},
      {"GET", "/metrics", handle_metrics, openai_error},
      {"POST", "/tokenize", handle_tokenize, openai_error},
      {"POST", "/detokenize", handle_detokenize, openai_error},
      {"POST", "/apply-template", handle_apply_template, openai_error},
      {"POST", "/load_model", handle_load_model, openai_error},
  };
  return routes;
}

}  // namespace engine::server
