// Sequences in flight: what is computed in each step, and the cache of what was computed before.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "runtime/constraint.h"
#include "runtime/generation_config.h"
#include "text/tokenizer.h"

namespace engine {

enum class FinishReason : uint8_t { none, stop, length, time, cancelled, error };
const char* finish_reason_name(FinishReason reason);  // "stop", "length", ...

struct GenerationStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of the prompt, found in the prefix cache
  int64_t completion_tokens = 0;  // the end-of-sequence token counts
  double prefill_s = 0;           // from submission to the first token
  double decode_s = 0;            // from the first token to the last
  int64_t draft_tokens = 0;       // guessed by the draft model
  int64_t accepted_tokens = 0;    // of those, in the answer
};

/// What a caller wants generated. The callbacks run inside step() and must not throw.
struct GenerationRequest {
  std::vector<int32_t> prompt;    // not empty
  GenerationConfig config;
  uint64_t stream = 0;            // makes several answers to one prompt and seed differ
  bool skip_special_tokens = true;  // in on_text
  std::vector<int32_t> shown_special;  // but not these
  /// A stop string that ends the answer stays in the text, as in Transformers. false: the text ends before it (OpenAI's `stop`).
  bool keep_stop_string = true;
  /// Called with text that is certain: complete UTF-8, and no possible beginning of a stop string that is to be left out. May be empty.
  std::function<void(std::string_view text)> on_text;
  /// Asked after each token's on_text; true ends the answer (stop). May be empty.
  std::function<bool()> enough;
  /// Called with each token as it is chosen. May be empty.
  std::function<void(int32_t token)> on_token;
  /// Called with the model's scores [vocab_size] of the next token and the answer so far, before the settings' processors see them; may read and
  /// change them. May be empty.
  std::function<void(std::span<float> logits, std::span<const int32_t> answer)> on_logits;
  /// What the answer may say; used by this request alone. Tokens that it does not allow are never chosen, and the answer ends (stop) where nothing
  /// can follow. May be null.
  std::shared_ptr<TokenConstraint> constraint;
  /// Called with (prompt tokens done, in all) after each prefill step. May be empty.
  std::function<void(int64_t done, int64_t total)> on_prefill;
  /// Checked before every step; true ends the sequence as cancelled. May be null. May be set from a signal handler.
  const std::atomic<bool>* cancel = nullptr;
};

struct GenerationResult {
  std::vector<int32_t> tokens;    // chosen, with the end-of-sequence token if it came
  std::string text;               // all of on_text's pieces
  FinishReason reason = FinishReason::none;
  std::string error;              // reason error: what happened
  GenerationStats stats;
};

struct SchedulerOptions {
  int max_sequences = 8;          // decoded side by side
  int64_t context = 0;            // positions a sequence may take; 0: the model's
  uint64_t kv_budget_bytes = 0;   // 0: enough for max_sequences * context, allocated as needed
  kernels::KvFormat kv_format = kernels::KvFormat::f32;
  int max_batch_tokens = 256;     // per step; long prompts are cut
  double max_step_s = 0;          // prompts are cut so that a step takes about this long at most; 0: by max_batch_tokens alone
  bool prefix_cache = true;
  /// A small model with the same tokenizer that guesses tokens ahead (see drafter.h): answers stay the same, bit for bit. Null: none.
  std::shared_ptr<const Model> draft_model;
  int max_draft_tokens = 8;       // of one sequence in a step
  uint64_t draft_kv_budget_bytes = 0;  // 0: enough, as above
};

/// Runs requests over one decoder. One thread calls it; sequences join and leave at every step. What a request gives does not depend on the
/// others, on how its prompt was cut, or on what the cache held.
class Scheduler {
 public:
  /// `tokenizer` may be null: no text then, and no stop strings. It must outlive the scheduler, as must `team`.
  /// Throws Error if the budget does not hold even one block.
  Scheduler(std::shared_ptr<const Model> model, const Tokenizer* tokenizer, Team& team, const SchedulerOptions& options);
  ~Scheduler();

  using Id = uint64_t;
  /// Queues a request. Throws Error if it cannot ever fit (prompt longer than the context: says both counts) or is not sound.
  Id submit(GenerationRequest request);
  /// One forward pass over what fits. Returns false if there was nothing to do.
  bool step();
  bool finished(Id id) const;
  /// The result of a finished request, once; forgets it.
  GenerationResult take(Id id);
  /// Ends a request at the next step(), queued or running, with what it has.
  void cancel(Id id);

  /// submit, step until done, take.
  GenerationResult run(GenerationRequest request);

  /// Positions a sequence may take: the options', the model's, or what the budget holds.
  int64_t context() const;
  Decoder& decoder();
  const Model* draft_model() const;  // null: none
  int64_t n_running() const;
  int64_t n_queued() const;
  uint64_t kv_bytes_used() const;  // of blocks in use, the prefix cache's included
  void clear_cache();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine
