#include "cli/chat_session.h"

#include <ctime>
#include <filesystem>

#include "base/error.h"
#include "cli/files.h"
#include "cli/messages.h"
#include "demo/demo.h"

namespace engine::cli {
namespace {

std::string date_for_file() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d_%H-%M-%S", &local);
  return text;
}

// Quotes around a whole value, 'a b' or "a b", are the shell's way of writing one word.
std::string unquoted(const std::string& value) {
  const bool quoted = value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
  return quoted ? value.substr(1, value.size() - 2) : value;
}

}  // namespace

ChatSession::ChatSession(Engine& engine, std::string model_name, GenerationConfig config, bool allow_special)
    : engine_(engine), model_name_(std::move(model_name)), config_(std::move(config)), allow_special_(allow_special) {}

bool ChatSession::has_system() const { return !messages_.empty() && messages_[0]["role"] == "system"; }

std::string ChatSession::system_prompt() const { return has_system() ? message_text(messages_[0]) : std::string(); }

void ChatSession::set_system_prompt(const std::string& text) {
  const ChatTemplate* chat = engine_.chat_template();
  if (!text.empty() && chat != nullptr && !chat->supports_system_role()) {
    throw Error("system prompt: the chat template of this model (" + chat->origin() + ") has no place for one",
                "say it in the first message instead, or start with --chat-template");
  }
  if (has_system()) messages_.erase(0);
  if (!text.empty()) messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", text}});
}

void ChatSession::set(std::string_view assignments) {
  GenerationConfig config = config_;
  const std::string* system = nullptr;
  const std::vector<std::string> words = split_assignments(assignments);
  if (words.empty()) throw Error("!set: expected key=value", "for example: !set temperature=0.7 max_new_tokens=100");
  std::vector<std::string> system_values;
  system_values.reserve(words.size());
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) throw Error("!set: expected key=value, got '" + word + "'");
    const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "system_prompt") {
      system_values.push_back(value == "None" ? "" : unquoted(value));
      system = &system_values.back();
    } else {
      config.set(key, value);
    }
  }
  if (system != nullptr) set_system_prompt(*system);
  config_ = std::move(config);
}

void ChatSession::add_user(std::string_view text) {
  messages_.push_back({{"role", "user"}, {"content", text}});
  stream_ = 0;
}
void ChatSession::add_assistant(std::string_view text, std::string_view reasoning) {
  messages_.push_back({{"role", "assistant"}, {"content", text}});
  if (!reasoning.empty()) messages_.back()["reasoning_content"] = reasoning;
}
void ChatSession::replace_assistant(std::string_view text, std::string_view reasoning) {
  drop_last();
  add_assistant(text, reasoning);
}
bool ChatSession::ends_with_assistant() const { return !messages_.empty() && messages_.back()["role"] == "assistant"; }
void ChatSession::drop_last() { messages_.erase(messages_.size() - 1); }

std::string ChatSession::undo() {
  size_t n = messages_.size();
  while (n > 0 && messages_[n - 1]["role"] != "user") n--;
  if (n == 0) throw Error("!undo: there is nothing to take back");
  const std::string text = message_text(messages_[n - 1]);
  while (messages_.size() >= n) drop_last();
  return text;
}

void ChatSession::prepare_again() {
  if (!ends_with_assistant()) throw Error("!regen: there is no answer to give again");
  drop_last();
}

void ChatSession::clear() {
  const bool keep = has_system();
  const Json system = keep ? messages_[0] : Json();
  messages_ = Json::array();
  if (keep) messages_.push_back(system);
  stream_ = 0;
}

std::vector<int32_t> ChatSession::encode(bool for_answer) const {
  if (messages_.empty()) return {};
  ChatRenderOptions render;
  render.add_generation_prompt = for_answer;
  return engine_.encode_chat(messages_, render, allow_special_);
}

int64_t ChatSession::context() const { return engine_.scheduler().context(); }

std::string ChatSession::save(const std::string& name) const {
  const std::string path = name.empty() ? "./chat_history/" + model_name_ + "/chat_" + date_for_file() + ".json" : expand_home(name);
  const Json file = {{"settings", {{"model_id", model_name_}, {"config", config_.to_json()}}}, {"chat_history", messages_}};
  write_file_atomically(path, dump_json(file, 4) + "\n");
  return path;
}

// Reads what save() and `transformers chat` write. Token ids belong to the model they were saved with.
void ChatSession::load(const std::string& name) {
  const std::string path = expand_home(name);
  const Json file = read_json_file(path);
  if (!file.is_object() || !file.contains("chat_history")) throw Error(path + ": expected an object with \"chat_history\"");
  Json messages = file["chat_history"];
  if (messages != Json::array()) check_messages(messages, path + ": chat_history");

  GenerationConfig config = config_;
  const Json settings = file.value("settings", Json::object());
  if (settings.is_object() && settings.contains("config")) {
    config = GenerationConfig();
    config.apply(settings["config"], path + ": settings", true);
    if (!config.max_new_tokens && !config.max_length) config.max_new_tokens = config_.max_new_tokens;
    if (settings.value("model_id", Json()) != Json(model_name_) || config.eos_token_id.empty()) {
      config.eos_token_id = config_.eos_token_id;
      config.bos_token_id = config_.bos_token_id;
      config.pad_token_id = config_.pad_token_id;
      config.suppress_tokens = config_.suppress_tokens;
      config.begin_suppress_tokens = config_.begin_suppress_tokens;
      config.bad_words_ids = config_.bad_words_ids;
    }
  }
  config_ = std::move(config);
  messages_ = std::move(messages);
  stream_ = 0;
}

std::vector<std::string> split_assignments(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  char quote = 0;
  int depth = 0;
  for (size_t i = 0; i < text.size(); i++) {
    const char c = text[i];
    const bool blank = c == ' ' || c == '\t' || c == '\n';
    if (blank && quote == 0 && depth == 0) {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
      continue;
    }
    word += c;
    if (quote != 0) {
      if (c == '\\' && i + 1 < text.size()) word += text[++i];
      else if (c == quote) quote = 0;
    } else if ((c == '"' || c == '\'') && (depth > 0 || (word.size() > 1 && word[word.size() - 2] == '='))) {
      quote = c;  // an apostrophe inside a word is an apostrophe
    } else if (c == '[') {
      depth++;
    } else if (c == ']' && depth > 0) {
      depth--;
    }
  }
  if (quote != 0) throw Error(std::string("!set: expected a closing ") + quote + ", got the end of the line");
  if (depth > 0) throw Error("!set: expected a closing ], got the end of the line");
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

std::string model_name(const std::string& argument, const std::string& directory) {
  if (argument == demo::directory) return demo::name;
  std::error_code error;
  if (!std::filesystem::is_directory(argument, error)) return argument;  // a Hub id
  const std::filesystem::path path = std::filesystem::canonical(directory, error);
  const std::string name = path.filename().string();
  return error || name.empty() ? "model" : name;
}

}  // namespace engine::cli
