#include "runtime/engine.h"

#include <chrono>
#include <filesystem>
#include <future>

#include "base/builtin_files.h"
#include "base/error.h"

namespace engine {
namespace {

/// System messages that are checked one by one; a conversation has one.
constexpr int max_checked_messages = 8;

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return find_builtin_file(path) != nullptr || std::filesystem::is_regular_file(path, ignored);
}

/// The defaults of a model: config.json's ids < generation_config.json < (no end of sequence at all) the tokenizer's.
GenerationConfig model_config(const Model& model, const Tokenizer* tokenizer) {
  GenerationConfig config;
  const ModelSpec& spec = model.spec();
  if (spec.bos_token_id >= 0) config.bos_token_id = spec.bos_token_id;
  config.eos_token_id = spec.eos_token_ids;
  const std::string path = model.directory() + "/generation_config.json";
  if (file_exists(path)) config.apply(read_json_file(path), path, true);
  if (config.eos_token_id.empty() && tokenizer != nullptr && !tokenizer->eos_token().empty()) {
    if (const auto id = tokenizer->token_to_id(tokenizer->eos_token())) config.eos_token_id = {*id};
  }
  return config;
}

bool is_blank(const Json& content) {
  if (content.is_null()) return true;
  if (content.is_string()) return content.get_ref<const std::string&>().find_first_not_of(" \t\r\n") == std::string::npos;
  return content.empty();
}

/// The text of the spans, to compare renderings.
std::string joined(const std::vector<TextSpan>& spans) {
  std::string text;
  for (const TextSpan& span : spans) text += span.text;
  return text;
}

/// Some templates pass over a system message without a word. One that changes nothing in what is rendered was dropped.
void check_system_messages(const ChatTemplate& chat_template, const Json& messages, const ChatRenderOptions& options,
                           const std::string& rendered) {
  int n_checked = 0;
  for (size_t i = 0; i < messages.size() && n_checked < max_checked_messages; ++i) {
    const Json& message = messages[i];
    if (!message.is_object() || message.value("role", Json()) != "system" || is_blank(message.value("content", Json()))) continue;
    ++n_checked;
    Json others = messages;
    others.erase(i);
    std::string without;
    try {
      without = joined(chat_template.render(others, options));
    } catch (const Error&) {
      continue;  // it cannot do without the message, so it looks at it
    }
    if (without != rendered) continue;
    throw Error("chat template: " + chat_template.origin() + ": it has no place for a system message and would leave it out",
                "leave the system prompt away, or choose another template with --chat-template");
  }
}

/// The draft model's ids are handed to the large model: they must mean the same.
void check_same_tokens(const std::string& directory, const Tokenizer& tokenizer) {
  const Tokenizer other = Tokenizer::from_directory(directory);
  const int32_t n = std::max(tokenizer.vocab_size(), other.vocab_size());
  for (int32_t id = 0; id < n; ++id) {
    const std::string expected = tokenizer.id_to_token(id), got = other.id_to_token(id);
    if (expected == got) continue;
    throw Error("--draft: " + directory + ": expected the same tokenizer as the model's, where token " + std::to_string(id) + " is '" + expected +
                    "', got '" + got + "'",
                "a draft model is mostly a smaller one of the same family");
  }
}

}  // namespace

Engine::Engine(const std::string& directory, const EngineOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  team_ = std::make_unique<Team>(options.n_threads > 0 ? options.n_threads : default_thread_count());
  LoadOptions load = options.load;
  load.team = team_.get();
  // A large vocabulary takes as long to read as the weights take to map: both at once, where a thread is to be had.
  std::future<Tokenizer> tokenizer;
  if (file_exists(directory + "/tokenizer.json")) {
    tokenizer = std::async(std::launch::async | std::launch::deferred, [&] { return Tokenizer::from_directory(directory); });
  }
  model_ = Model::load(directory, load);
  if (tokenizer.valid()) tokenizer_.emplace(tokenizer.get());
  if (!options.chat_template.empty()) {
    template_.emplace(ChatTemplate::from_option(options.chat_template, directory));
  } else {
    template_ = ChatTemplate::from_directory(directory);
  }
  config_ = model_config(*model_, tokenizer_ ? &*tokenizer_ : nullptr);
  SchedulerOptions scheduler = options.scheduler;
  if (!options.draft_directory.empty()) {
    check_same_tokens(options.draft_directory, this->tokenizer());
    load.adapter.clear();
    scheduler.draft_model = Model::load(options.draft_directory, load);
  }
  scheduler.kv_format = options.kv_format.value_or(natural_kv_format(*model_));
  scheduler_ = std::make_unique<Scheduler>(model_, tokenizer_ ? &*tokenizer_ : nullptr, *team_, scheduler);
  load_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

const Tokenizer& Engine::tokenizer() const {
  if (!tokenizer_) {
    throw Error(model_->directory() + ": expected a tokenizer.json, found none",
                "a tokenizer.model can be converted with Transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
  }
  return *tokenizer_;
}

std::shared_ptr<const TokenTable> Engine::token_table() const {
  const std::lock_guard lock(mutex_);
  if (!token_table_) token_table_ = std::make_shared<const TokenTable>(tokenizer());
  return token_table_;
}

std::vector<int32_t> Engine::encode_chat(const Json& messages, const ChatRenderOptions& options, bool allow_special) const {
  if (!template_) {
    std::string names;
    for (const std::string& name : ChatTemplate::builtin_names()) names += (names.empty() ? "" : ", ") + name;
    throw Error(model_->directory() + ": expected a chat template, found none: this may be a base model",
                "--chat-template FILE or one of: " + names);
  }
  const std::vector<TextSpan> spans = template_->render(messages, options);
  const std::string text = joined(spans);
  if (messages.is_array()) check_system_messages(*template_, messages, options, text);
  return allow_special ? tokenizer().encode(text, false) : tokenizer().encode(spans);
}

}  // namespace engine
