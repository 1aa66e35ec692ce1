// What the routes of OpenAI's interface share.
#include <algorithm>
#include <cmath>
#include <ctime>

#include "runtime/json_schema.h"
#include "server/openai.h"
#include "text/tokenizer.h"

namespace engine::server {
namespace {

constexpr size_t max_values = 300'000;     // in a request's JSON
constexpr int64_t max_choices = 16;        // n
constexpr size_t max_stops = 16, max_stop_bytes = 256;
constexpr size_t max_biases = 1024;
constexpr int64_t max_top_logprobs = 20;
constexpr size_t max_messages = 4096;
constexpr auto poll_interval = std::chrono::milliseconds(25);  // how soon a client's leaving is seen
constexpr std::chrono::milliseconds comment_interval{250}, ping_interval{10'000};

using Clock = std::chrono::steady_clock;

size_t count_values(std::string_view text) {
  size_t n = 1;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '\\') ++i;
      else if (text[i] == '"') in_string = false;
    } else if (text[i] == '"') {
      in_string = true;
    } else {
      n += text[i] == ',' || text[i] == '[' || text[i] == '{';
    }
  }
  return n;
}

std::string type_name(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 503: case 504: case 500: return "server_error";
    default: return "invalid_request_error";
  }
}

void read_stops(Fields& fields, Generation& g) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  if (!list.is_array()) bad_field("stop", "a string or a list of strings", *stop);
  g.work.config.stop_strings.clear();
  for (const Json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) bad_field("stop", "strings that are not empty", item);
    g.work.config.stop_strings.push_back(item.get<std::string>());
  }
  g.work.keep_stop_string = false;
}

std::string shortened(const Json& value) { return value.is_structured() || value.is_string() ? value.type_name() : dump_json(value); }

void check_stops(const GenerationConfig& config) {
  if (config.stop_strings.size() > max_stops) {
    throw ApiError(400, "stop: expected at most " + std::to_string(max_stops) + " strings, got " + std::to_string(config.stop_strings.size()), "stop");
  }
  for (const std::string& s : config.stop_strings) {
    if (s.size() > max_stop_bytes) {
      throw ApiError(400, "stop: expected at most " + std::to_string(max_stop_bytes) + " bytes, got " + std::to_string(s.size()), "stop");
    }
  }
}

void read_biases(App& app, Fields& fields, Work& work) {
  const Json* biases = fields.find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object()) bad_field("logit_bias", "an object of token ids and numbers", *biases);
  if (biases->size() > max_biases) {
    throw ApiError(400, "logit_bias: expected at most " + std::to_string(max_biases) + " tokens, got " + std::to_string(biases->size()), "logit_bias");
  }
  for (const auto& [key, value] : biases->items()) {
    const bool digits = !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    const int64_t id = digits ? std::stoll(key) : -1;
    if (id < 0 || id >= app.engine.model().spec().vocab_size) {
      throw ApiError(400, "logit_bias: expected token ids below " + std::to_string(app.engine.model().spec().vocab_size) + " as names", "logit_bias");
    }
    if (!value.is_number() || !(std::fabs(value.get<double>()) <= 100)) bad_field("logit_bias", "numbers from -100 to 100", value);
    work.logit_bias.emplace_back(static_cast<int32_t>(id), value.get<float>());
  }
}

/// GenerationConfig's fields, by their own names and, as `transformers chat` sends them, in one JSON text. Returns whether one bounds the length.
bool read_settings(Fields& fields, GenerationConfig& config) {
  Json given = Json::object();
  if (const auto text = fields.text("generation_config")) {
    given = parse_json(*text, "generation_config");
    if (!given.is_object()) bad_field("generation_config", "a JSON object as text", given);
  }
  for (const std::string& key : GenerationConfig::keys()) {
    if (const Json* value = fields.find(key.c_str())) given[key] = *value;
  }
  if (given.contains("seed") && given["seed"].is_number_integer() && given["seed"] < 0) {
    given["seed"] = static_cast<uint64_t>(given["seed"].get<int64_t>());
  }
  try {
    config.apply(given, "request", false);
  } catch (const Error& error) {  // "request: KEY: ..."
    const std::string message = error.message.starts_with("request: ") ? error.message.substr(9) : error.message;
    const std::string key = message.substr(0, message.find(':'));
    throw ApiError(400, message, fields.find(key.c_str()) != nullptr ? key : "generation_config", "invalid_value");
  }
  // In OpenAI's interface a temperature asks for sampling.
  if (!given.contains("do_sample") && (given.contains("temperature") || given.contains("top_p"))) config.do_sample = config.temperature > 0;
  const auto is_given = [&](const char* key) { return given.contains(key) && !given[key].is_null(); };
  return is_given("max_new_tokens") || is_given("max_length");
}

void check_failed(const GenerationResult& result) {
  if (result.reason == FinishReason::error) throw ApiError(400, result.error, "", "generation_failed");
}

void note_answer(App& app, const Work& work, const std::vector<GenerationResult>& results) {
  if (results.empty()) return;
  const Json usage = usage_of(work, results);
  app.note("prompt_tokens", usage["prompt_tokens"]);
  app.note("cached_tokens", usage["prompt_tokens_details"]["cached_tokens"]);
  app.note("completion_tokens", usage["completion_tokens"]);
  app.note("finish", finish_reason_name(results[0].reason));
  app.note("first_token_ms", static_cast<int64_t>(results[0].stats.prefill_s * 1000));
}

}  // namespace

void check_model(const App& app, const std::string& name) {
  const std::string plain = name.substr(0, name.find('@'));  // `transformers chat` adds a revision
  const auto& aliases = app.options.model_aliases;
  if (plain == app.options.model_name || std::find(aliases.begin(), aliases.end(), plain) != aliases.end()) return;
  throw ApiError(404, "model: expected '" + app.options.model_name + "', the one served here, got another", "model", "model_not_found");
}

Reply openai_error(const ApiError& error) {
  Reply reply;
  reply.status = error.status;
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  reply.body = dump_json({{"error",
                           {{"message", error.message}, {"type", type_name(error.status)}, {"param", or_null(error.param)}, {"code", or_null(error.code)}}}}) +
               "\n";
  return reply;
}

// --- fields ---------------------------------------------------------------------------------------------------------------

Fields::Fields(const std::string& body) {
  if (count_values(body) > max_values) throw ApiError(400, "body: expected at most " + std::to_string(max_values) + " JSON values", "", "too_many_values");
  object_ = parse_json(body, "body", true);
  if (!object_.is_object()) throw ApiError(400, std::string("body: expected a JSON object, got ") + object_.type_name());
}

void bad_field(const std::string& name, const std::string& expected, const Json& got) {
  throw ApiError(400, name + ": expected " + expected + ", got " + shortened(got), name, "invalid_value");
}

const Json* Fields::find(const char* name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::string> Fields::text(const char* name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) bad_field(name, "a string", *value);
  return value->get<std::string>();
}

std::optional<bool> Fields::boolean(const char* name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) bad_field(name, "true or false", *value);
  return value->get<bool>();
}

std::optional<int64_t> Fields::integer(const char* name, int64_t low, int64_t high) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_integer() && !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    bad_field(name, "a whole number from " + std::to_string(low) + " to " + std::to_string(high), *value);
  }
  return value->get<int64_t>();
}

std::optional<double> Fields::number(const char* name, double low, double high) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
    bad_field(name, "a number from " + dump_json(low) + " to " + dump_json(high), *value);
  }
  return value->get<double>();
}

void Fields::ignore(std::initializer_list<const char*> names) { known_.insert(names.begin(), names.end()); }

void Fields::only(const char* name, std::initializer_list<Json> neutral) {
  const Json* value = find(name);
  if (value == nullptr || std::find(neutral.begin(), neutral.end(), *value) != neutral.end()) return;
  throw ApiError(400, std::string(name) + ": is not supported here", name, "unsupported_parameter");
}

void Fields::finish() const {
  std::string unknown, first;
  for (const auto& [key, value] : object_.items()) {
    if (known_.contains(key)) continue;
    if (first.empty()) first = key;
    if (unknown.size() < 500) unknown += (unknown.empty() ? "" : ", ") + key.substr(0, 100);
  }
  if (first.empty()) return;
  const std::string near = nearest_word(first.substr(0, 100), {known_.begin(), known_.end()});
  throw ApiError(400, "unknown field: " + unknown + (near.empty() ? "" : " (did you mean " + near + "?)"), first.substr(0, 100), "unknown_parameter");
}

Generation read_generation(App& app, Fields& fields, std::initializer_list<const char*> max_tokens_names, int64_t default_max_tokens) {
  Generation g;
  Work& work = g.work;
  work.config = app.options.defaults;
  g.model = app.options.model_name;
  if (const auto model = fields.text("model")) check_model(app, *model);
  bool bounded = read_settings(fields, work.config);
  for (const char* name : max_tokens_names) {
    if (const auto n = fields.integer(name, 1, INT32_MAX)) {
      work.config.max_new_tokens = *n;
      bounded = true;
    }
  }
  const GenerationConfig& defaults = app.options.defaults;
  if (!bounded && !defaults.max_new_tokens && !defaults.max_length) {
    work.config.max_new_tokens = default_max_tokens > 0 ? default_max_tokens : app.engine.scheduler().context();
  }
  work.n = static_cast<int>(fields.integer("n", 1, max_choices).value_or(1));
  read_stops(fields, g);
  check_stops(work.config);
  read_biases(app, fields, work);
  work.presence_penalty = fields.number("presence_penalty", -2, 2).value_or(0);
  work.frequency_penalty = fields.number("frequency_penalty", -2, 2).value_or(0);
  work.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  if (fields.boolean("ignore_eos").value_or(false)) work.config.eos_token_id.clear();
  g.stream = fields.boolean("stream").value_or(false);
  if (const Json* options = fields.find("stream_options")) {
    if (!options->is_object()) bad_field("stream_options", "an object", *options);
    for (const auto& [key, value] : options->items()) {
      if (key != "include_usage" && key != "include_obfuscation") throw ApiError(400, "stream_options: unknown field: " + key.substr(0, 100), "stream_options", "unknown_parameter");
      if (!value.is_boolean()) bad_field("stream_options." + key, "true or false", value);
    }
    g.include_usage = options->value("include_usage", false);
  }
  double limit_s = app.options.request_timeout_s;
  if (work.config.max_time) limit_s = std::min(limit_s, *work.config.max_time);
  work.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::max(limit_s, 0.0)));
  return g;
}

void add_prompt(App& app, Generation& g, std::vector<int32_t> prompt, const char* param) {
  const int64_t context = app.engine.scheduler().context();
  const auto n = static_cast<int64_t>(prompt.size());
  if (n == 0) throw ApiError(400, std::string(param) + ": expected at least one token, got none", param);
  if (n >= context) {
    throw ApiError(400, std::string(param) + ": expected fewer than " + std::to_string(context) + " tokens (the context), got " + std::to_string(n), param,
                   "context_length_exceeded");
  }
  g.work.prompts.push_back(std::move(prompt));
}

void read_answer_format(App& app, const Json& format, const std::string& field, bool schema_inside, Work& work) {
  const std::string param = field.substr(0, field.find('.'));
  const auto refuse = [&](const std::string& message) { throw ApiError(400, message, param, "invalid_value"); };
  const auto check_keys = [&](const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
    for (const auto& [key, value] : object.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) refuse(where + ": unknown field: " + key.substr(0, 100));
    }
  };
  if (!format.is_object()) refuse(field + ": expected an object, got " + shortened(format));
  const Json type = format.value("type", Json());
  if (type != "text" && type != "json_object" && type != "json_schema") refuse(field + ".type: expected text, json_object or json_schema, got " + shortened(type));
  if (type != "json_schema") check_keys(format, field, {"type"});
  if (type == "text") return;
  try {
    if (type == "json_object") {
      work.grammar = json_object_grammar();
    } else {
      const std::string where = schema_inside ? field + ".json_schema" : field;
      if (schema_inside) check_keys(format, field, {"type", "json_schema"});
      const Json described = schema_inside ? format.value("json_schema", Json()) : format;
      if (!described.is_object()) refuse(where + ": expected an object, got " + shortened(described));
      check_keys(described, where, schema_inside ? std::initializer_list<std::string_view>{"name", "description", "schema", "strict"}
                                                 : std::initializer_list<std::string_view>{"type", "name", "description", "schema", "strict"});
      const Json name = described.value("name", Json()), strict = described.value("strict", Json());
      if (!name.is_string() || name.get_ref<const std::string&>().empty()) refuse(where + ".name: expected a name, got " + shortened(name));
      if (!strict.is_null() && !strict.is_boolean()) refuse(where + ".strict: expected true or false, got " + shortened(strict));
      if (!described.contains("schema")) refuse(where + ".schema: expected a JSON Schema, got nothing");
      try {
        work.grammar = json_schema_grammar(described["schema"]);
      } catch (const Error& error) {
        refuse(where + "." + error.message);
      }
    }
    GrammarConstraint(work.grammar, app.engine.token_table(), {});  // what does not serve is told now
  } catch (const ApiError&) {
    throw;
  } catch (const Error& error) {
    throw ApiError(400, field + ": " + error.message, param, "unsupported_parameter");
  }
}

// --- messages -------------------------------------------------------------------------------------------------------------

namespace {

std::string read_content(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) bad_field(where, "a string or a list of text parts", content);
  std::string text;
  for (const Json& part : content) {
    const std::string type = part.is_object() && part.contains("type") && part["type"].is_string() ? part["type"].get<std::string>() : "";
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      throw ApiError(400, where + ": expected parts of type text" + (type.empty() ? "" : ", got " + type.substr(0, 50)), where, "unsupported_content");
    }
    const char* key = type == "refusal" ? "refusal" : "text";
    if (!part.contains(key) || !part[key].is_string()) throw ApiError(400, where + ": expected a part with a string \"" + key + "\"", where);
    text += (text.empty() ? "" : "\n") + part[key].get<std::string>();
  }
  return text;
}

}  // namespace

Json read_messages(const Json& messages) {
  static const std::set<std::string> known = {"role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call", "audio",
                                              "annotations", "reasoning_content", "reasoning", "thinking"};
  static const std::set<std::string> roles = {"system", "developer", "user", "assistant", "tool", "function"};
  if (!messages.is_array()) bad_field("messages", "a list", messages);
  if (messages.empty()) throw ApiError(400, "messages: expected at least one message, got an empty list", "messages");
  if (messages.size() > max_messages) {
    throw ApiError(400, "messages: expected at most " + std::to_string(max_messages) + ", got " + std::to_string(messages.size()), "messages");
  }
  Json out = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    const std::string where = "messages[" + std::to_string(i) + "]";
    if (!message.is_object()) bad_field(where, "an object", message);
    if (!message.contains("role") || !message["role"].is_string()) throw ApiError(400, where + ".role: expected a string", where + ".role");
    std::string role = message["role"].get<std::string>();
    if (!roles.contains(role)) {
      throw ApiError(400, where + ".role: expected system, developer, user, assistant or tool, got '" + role.substr(0, 50) + "'", where + ".role");
    }
    Json checked = {{"role", role == "developer" ? "system" : role}};
    for (const auto& [key, value] : message.items()) {
      if (!known.contains(key)) throw ApiError(400, where + ": unknown field: " + key.substr(0, 100), where, "unknown_parameter");
      if (key == "role" || value.is_null()) continue;
      if (key == "content") checked[key] = read_content(value, where + ".content");
      else checked[key] = key == "tool_calls" ? checked_tool_calls(value, where + ".tool_calls") : value;
    }
    // Clients send null beside calls; templates add to a text.
    if (!checked.contains("content") && checked.contains("tool_calls")) checked["content"] = "";
    if (!checked.contains("content") && !checked.contains("tool_calls") && !checked.contains("function_call")) {
      throw ApiError(400, where + ".content: expected a string or a list of text parts, got nothing", where + ".content");
    }
    out.push_back(std::move(checked));
  }
  return out;
}

// --- answers --------------------------------------------------------------------------------------------------------------

std::shared_ptr<Answer> start_answer(App& app, Work work, const std::function<bool()>& gone) {
  std::shared_ptr<Answer> answer = app.service.submit(std::move(work));
  for (;;) {
    // Nothing is lost by looking at once what came: pieces stay until somebody asks for more than the acceptance.
    if (const auto refused = answer->wait_accepted(poll_interval)) {
      if (!refused->empty()) throw ApiError(400, *refused);
      return answer;
    }
    if (gone()) {
      answer->cancel();
      throw ApiError(499, "the client has gone");
    }
  }
}

std::vector<ChoiceState> collect_answer(App& app, Answer& answer, const std::function<bool()>& gone) {
  std::vector<ChoiceState> choices(static_cast<size_t>(answer.work.n_choices()));
  size_t n_left = choices.size();
  while (n_left > 0) {
    const Answer::News news = answer.wait(poll_interval);
    if (news.failed) throw ApiError(500, "generating failed: " + *news.failed, "", "internal_error");
    for (const Answer::Piece& piece : news.pieces) {
      ChoiceState& choice = choices[static_cast<size_t>(piece.choice)];
      choice.text += piece.text;
      choice.tokens.insert(choice.tokens.end(), piece.tokens.begin(), piece.tokens.end());
      if (!piece.result) continue;
      choice.result = piece.result;
      --n_left;
    }
    if (n_left > 0 && gone()) {
      answer.cancel();
      throw ApiError(499, "the client has gone");
    }
  }
  std::vector<GenerationResult> results;
  bool any = false;
  for (const ChoiceState& choice : choices) {
    check_failed(*choice.result);
    any |= choice.result->stats.completion_tokens > 0;
    results.push_back(*choice.result);
  }
  note_answer(app, answer.work, results);
  if (!any && answer.timed_out()) throw ApiError(504, "the time for this request ran out before its answer began", "", "timeout");
  return choices;
}

std::vector<GenerationResult> stream_answer(App& app, Answer& answer, Sink& sink, const std::function<void(const Answer::Piece&)>& on_piece) {
  std::vector<GenerationResult> results(static_cast<size_t>(answer.work.n_choices()));
  size_t n_left = results.size();
  Clock::time_point last_write = Clock::now(), last_comment = last_write;
  int64_t told_position = 0, told_prefill = 0;
  while (n_left > 0) {
    const Answer::News news = answer.wait(poll_interval);
    if (news.failed) throw ApiError(500, "generating failed: " + *news.failed, "", "internal_error");
    const Clock::time_point now = Clock::now();
    for (const Answer::Piece& piece : news.pieces) {
      on_piece(piece);
      last_write = now;
      if (!piece.result) continue;
      check_failed(*piece.result);
      results[static_cast<size_t>(piece.choice)] = *piece.result;
      --n_left;
    }
    bool here = !sink.disconnected();
    if (here && n_left > 0 && news.pieces.empty() && now - last_comment >= comment_interval) {
      std::string comment;
      if (news.queue_position > 0 && news.queue_position != told_position) comment = ": queue " + std::to_string(news.queue_position) + "\n\n";
      else if (news.prefill_done < news.prefill_total && news.prefill_done != told_prefill)
        comment = ": prefill " + std::to_string(news.prefill_done) + "/" + std::to_string(news.prefill_total) + "\n\n";
      else if (now - last_write >= ping_interval) comment = ": ping\n\n";
      if (!comment.empty()) {
        told_position = news.queue_position;
        told_prefill = news.prefill_done;
        last_comment = last_write = now;
        here = sink.write(comment);
      }
    }
    if (!here) {
      answer.cancel();
      app.note("finish", "cancelled");
      return {};
    }
  }
  note_answer(app, answer.work, results);
  return results;
}

const char* openai_finish_reason(FinishReason reason) {
  return reason == FinishReason::stop ? "stop" : "length";  // time, and a server that goes down, cut an answer short too
}

Json usage_of(const Work& work, const std::vector<GenerationResult>& results) {
  int64_t prompt = 0, cached = 0, completion = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    completion += results[i].stats.completion_tokens;
    if (i % static_cast<size_t>(work.n) != 0) continue;
    prompt += results[i].stats.prompt_tokens;
    cached += results[i].stats.cached_tokens;
  }
  const GenerationStats& first = results[0].stats;
  const auto speed = [](int64_t n, double s) { return n > 0 && s > 0 ? std::round(static_cast<double>(n) / s * 100) / 100 : 0; };
  const auto ms = [](double s) { return std::round(s * 1e6) / 1e6; };
  Json usage = {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}},
          {"timings",
           {{"first_token_s", ms(first.prefill_s)},
            {"decode_s", ms(first.decode_s)},
            {"prefill_tok_s", speed(first.prompt_tokens - first.cached_tokens, first.prefill_s)},
            {"decode_tok_s", speed(first.completion_tokens - 1, first.decode_s)}}}};
  int64_t drafted = 0, accepted = 0;
  for (const GenerationResult& result : results) drafted += result.stats.draft_tokens, accepted += result.stats.accepted_tokens;
  if (drafted > 0) usage["timings"].update({{"draft_tokens", drafted}, {"accepted_tokens", accepted}});
  return usage;
}

int64_t count_tokens(const App& app, const std::string& text) {
  return text.empty() ? 0 : static_cast<int64_t>(app.engine.tokenizer().encode(text, false).size());
}

std::string event_text(const Json& data) { return "data: " + dump_json(data) + "\n\n"; }

std::string token_text(const App& app, int32_t id) {
  Detokenizer detokenizer(app.engine.tokenizer(), false);
  detokenizer.prime({&id, 1});  // something before it: a blank at its beginning stays
  std::string text = detokenizer.push(id);
  return text + detokenizer.flush();
}

int64_t unix_time() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace engine::server
