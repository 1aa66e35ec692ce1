// `engine generate`: one prompt, one answer. Follows Transformers' text-generation pipeline: a conversation that ends in the assistant's words
// is continued, and generated_text is the whole conversation (or, with --raw, the whole text).
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/messages.h"
#include "runtime/json_schema.h"

namespace engine::cli {
namespace {

struct Prompt {
  Json messages;     // null with --raw
  std::string text;  // with --raw
  bool continued = false;
};

void check_combination(const Options& options) {
  if (options.prompt && !options.messages.empty()) throw UsageError("-p and --messages: expected one of them, got both");
  if (options.raw && !options.messages.empty()) throw UsageError("--raw: takes a text (-p), not --messages");
  if (options.json_schema == "-" && (options.messages == "-" || (!options.prompt && options.messages.empty()))) {
    throw UsageError("--json-schema: stdin is read for the prompt already");
  }
  if (options.raw && options.system_prompt) throw UsageError("--raw: a --system-prompt needs the chat template");
  if (options.raw && !options.chat_template.empty()) throw UsageError("--raw: does without the chat template, so --chat-template has no effect");
  if (!options.prompt && options.messages.empty() && terminal().stdin_tty) {
    throw UsageError("nothing to answer: expected -p TEXT, --messages FILE, or text on stdin");
  }
}

Prompt read_prompt(const Options& options) {
  Prompt prompt;
  if (!options.messages.empty()) {
    const std::string where = options.messages == "-" ? "stdin" : options.messages;
    prompt.messages = read_json_argument(options.messages);
    check_messages(prompt.messages, where);
  } else {
    const std::string text = options.prompt ? *options.prompt : read_stdin();
    if (options.raw) {
      prompt.text = text;
      return prompt;
    }
    prompt.messages = Json::array({{{"role", "user"}, {"content", text}}});
  }
  if (options.system_prompt) {
    if (prompt.messages[0]["role"] == "system") {
      throw Error("--system-prompt: expected messages without a system message, but the first one is one");
    }
    prompt.messages.insert(prompt.messages.begin(), Json{{"role", "system"}, {"content", *options.system_prompt}});
  }
  prompt.continued = prompt.messages.back()["role"] == "assistant";
  return prompt;
}

/// Null: any answer will do.
std::shared_ptr<const Grammar> read_schema(const Options& options) {
  if (options.json_schema.empty()) return nullptr;
  const Json schema = read_json_argument(options.json_schema);
  try {
    return json_schema_grammar(schema);
  } catch (const Error& error) {
    throw Error("--json-schema: " + error.message);
  }
}

std::vector<int32_t> encode_prompt(const Engine& engine, const Prompt& prompt, const Options& options) {
  if (options.raw) {
    std::vector<int32_t> ids = engine.tokenizer().encode(prompt.text, true);
    if (ids.empty()) throw Error("-p: expected some text, got an empty prompt");
    return ids;
  }
  if (engine.chat_template() == nullptr) {
    throw Error(options.model + ": has no chat template",
                "--raw sends the text as it is; --chat-template FILE|NAME gives one (chatml, llama3, mistral, gemma, zephyr, raw)");
  }
  ChatRenderOptions render;
  render.add_generation_prompt = !prompt.continued;
  render.continue_final_message = prompt.continued;
  return engine.encode_chat(prompt.messages, render, options.allow_special);
}

Json generated_text(const Prompt& prompt, const std::string& answer) {
  if (prompt.messages.is_null()) return prompt.text + answer;
  Json messages = prompt.messages;
  if (prompt.continued) {
    messages.back()["content"] = message_text(messages.back()) + answer;
  } else {
    messages.push_back({{"role", "assistant"}, {"content", answer}});
  }
  return messages;
}

std::string json_answer(Engine& engine, const Prompt& prompt, const GenerationResult& result) {
  const GenerationStats& stats = result.stats;
  Json answer = {{"generated_text", generated_text(prompt, result.text)},
                       {"text", result.text},
                       {"token_ids", result.tokens},
                       {"prompt_tokens", stats.prompt_tokens},
                       {"completion_tokens", stats.completion_tokens},
                       {"cached_tokens", stats.cached_tokens},
                       {"finish_reason", finish_reason_name(result.reason)},
                       {"timings",
                        {{"load_s", engine.load_seconds()},
                         {"prefill_s", stats.prefill_s},
                         {"decode_s", stats.decode_s},
                         {"prefill_tok_s", prefill_speed(stats)},
                         {"decode_tok_s", decode_speed(stats)}}}};
  if (engine.has_draft_model()) {
    answer["timings"]["draft_tokens"] = stats.draft_tokens;
    answer["timings"]["accepted_tokens"] = stats.accepted_tokens;
  }
  return dump_json(answer) + "\n";
}

}  // namespace

int run_generate(const Options& options) {
  check_combination(options);
  const Prompt prompt = read_prompt(options);
  const std::shared_ptr<const Grammar> grammar = read_schema(options);
  const std::unique_ptr<Engine> engine = load_engine(options);
  engine->tokenizer();  // says so if there is none
  const GenerationConfig config = make_config(*engine, options);
  std::vector<int32_t> ids = encode_prompt(*engine, prompt, options);
  std::shared_ptr<TokenConstraint> constraint;
  if (grammar != nullptr) constraint = std::make_shared<GrammarConstraint>(grammar, engine->token_table(), config.eos_token_id);

  const bool to_terminal = terminal().stdout_tty;
  const bool stream = options.stream || (to_terminal && !options.json);
  const auto safe = [to_terminal](std::string_view text) { return to_terminal ? printable(text) : std::string(text); };
  const InterruptGuard guard(true);
  const GenerationResult result = generate_answer(*engine, std::move(ids), config, 0, guard, options.quiet, [&](std::string_view text) {
    if (stream && options.json) write_stdout(dump_json(Json{{"delta", text}}) + "\n");
    else if (stream) write_stdout(safe(text));
  }, constraint);

  if (options.json) write_stdout(json_answer(*engine, prompt, result));
  else write_stdout((stream ? "" : safe(result.text)) + "\n");
  if (!options.quiet) {
    std::string line = closing_line(result.stats);
    if (result.reason == FinishReason::length) {
      const bool full = result.stats.prompt_tokens + result.stats.completion_tokens >= engine->scheduler().context();
      line += full ? ", the context is full" : ", cut at max_new_tokens";
      if (constraint != nullptr) line += ": the JSON is not complete";
    }
    write_stderr(styled(line, style::dim, terminal().colour_stderr) + "\n");
  }
  return guard.interrupted() ? exit_interrupted : exit_done;
}

}  // namespace engine::cli
