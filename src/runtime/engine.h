// Everything that serves one model directory: model, tokenizer, template, default settings and a scheduler. What the commands start from.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/threads.h"
#include "runtime/generation_config.h"
#include "runtime/scheduler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace engine {

struct EngineOptions {
  int n_threads = 0;              // 0: default_thread_count()
  LoadOptions load;               // team is filled in
  SchedulerOptions scheduler;
  std::optional<kernels::KvFormat> kv_format;  // replaces the scheduler's; none: natural_kv_format
  std::string chat_template;      // file or built-in name; empty: the model's own
  std::string draft_directory;    // of the draft model (see drafter.h); empty: none. Weights in the same form, without the adapter
};

/// A Hub id that is not in the cache, or not in this revision: it could be fetched.
struct NotInCache : Error {
  using Error::Error;
};

/// Resolves MODEL as the command line means it: a directory, or a Hub id in the local Hugging Face cache (HF_HUB_CACHE, HF_HOME/hub,
/// ~/.cache/huggingface/hub: models--ORG--NAME/refs/REV -> snapshots/HASH). Throws Error that says where it looked,
/// and NotInCache that says what would fetch it.
std::string resolve_model(const std::string& model, const std::string& revision = "main");

class Engine {
 public:
  /// `directory` as given by resolve_model. Throws Error.
  Engine(const std::string& directory, const EngineOptions& options);

  const Model& model() const { return *model_; }
  std::shared_ptr<const Model> shared_model() const { return model_; }
  const Tokenizer& tokenizer() const;             // throws Error if the directory has none
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  bool has_draft_model() const { return scheduler_->draft_model() != nullptr; }
  /// For answers of a given form. Made when first asked for; any thread may ask. Throws Error if the tokenizer does not serve.
  std::shared_ptr<const TokenTable> token_table() const;
  const ChatTemplate* chat_template() const { return template_ ? &*template_ : nullptr; }
  const GenerationConfig& default_config() const { return config_; }  // defaults < config.json < generation_config.json
  Scheduler& scheduler() { return *scheduler_; }
  Team& team() { return *team_; }
  double load_seconds() const { return load_s_; }

  /// Renders messages with the chat template and encodes the result, message texts never as control tokens (unless allow_special).
  /// Throws Error if there is no template, it fails, or it drops a system prompt in silence.
  std::vector<int32_t> encode_chat(const Json& messages, const ChatRenderOptions& options, bool allow_special = false) const;

 private:
  std::unique_ptr<Team> team_;
  std::shared_ptr<const Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  GenerationConfig config_;
  std::unique_ptr<Scheduler> scheduler_;
  double load_s_ = 0;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const TokenTable> token_table_;  // under mutex_
};

}  // namespace engine
