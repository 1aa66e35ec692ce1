// A conversation and its settings; no terminal in here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "runtime/engine.h"

namespace engine::cli {

/// The conversation with one model. Every change either succeeds or throws Error and leaves things as they were.
class ChatSession {
 public:
  /// `model_name`: for people and for file names ("stories260K", "Qwen/Qwen3-0.6B").
  ChatSession(Engine& engine, std::string model_name, GenerationConfig config, bool allow_special);

  const Json& messages() const { return messages_; }
  const std::string& model_name() const { return model_name_; }
  Engine& engine() { return engine_; }

  const GenerationConfig& config() const { return config_; }
  /// For GenerationRequest::stream: with a fixed seed, each turn is the same in every run, but !regen and going on do not repeat the draws.
  uint64_t next_stream() { return stream_++; }
  /// "key=value key='a b' ...", all or nothing; system_prompt is one of the keys.
  void set(std::string_view assignments);
  void set_value(const std::string& key, const std::string& value) { config_.set(key, value); }
  void set_system_prompt(const std::string& text);  // empty: none
  std::string system_prompt() const;

  void add_user(std::string_view text);
  /// `reasoning`: thoughts apart from the text; empty: none.
  void add_assistant(std::string_view text, std::string_view reasoning = {});
  void replace_assistant(std::string_view text, std::string_view reasoning = {});  // the last message
  bool ends_with_assistant() const;
  /// Takes off the last exchange and returns the user's words. Throws Error if there is none.
  std::string undo();
  /// Takes off the last answer, so that it can be given anew. Throws Error if there is none.
  void prepare_again();
  /// Puts back what messages() was.
  void restore(const Json& messages) { messages_ = messages; }
  /// Back to the system prompt alone.
  void clear();

  /// Ids of the conversation, ready for an answer (or, for counting, as it stands).
  std::vector<int32_t> encode(bool for_answer) const;
  int64_t context() const;

  /// {"settings": {...}, "chat_history": [...]}; returns the path. An empty name: ./chat_history/MODEL/chat_DATE.json.
  std::string save(const std::string& name) const;
  void load(const std::string& path);

 private:
  bool has_system() const;
  void drop_last();
  Engine& engine_;
  std::string model_name_;
  GenerationConfig config_;
  bool allow_special_;
  Json messages_ = Json::array();
  uint64_t stream_ = 0;
};

/// Splits "a=1 b='x y' c=[1, 2]" at blanks outside quotes and brackets. Throws Error on an open quote or bracket.
std::vector<std::string> split_assignments(std::string_view text);

/// What to call a model given as `argument` and found at `directory`: the Hub id, or the directory's own name.
std::string model_name(const std::string& argument, const std::string& directory);

}  // namespace engine::cli
