// Speculative decoding (Leviathan et al., arXiv:2211.17192; Transformers' assisted generation): a small model guesses the next tokens, the large one
// scores all of them in one forward pass. A guess stands only if the large model's own sampler picks the same token with its own random numbers, so
// that the answer is, bit for bit, the one without a draft model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/decoder.h"
#include "runtime/prefix_cache.h"
#include "runtime/sampler.h"

namespace engine {

/// How many tokens to guess, from what guesses were worth so far and what they cost. It decides about time only, never about the answer.
class DraftPolicy {
 public:
  explicit DraftPolicy(int max_tokens) : max_tokens_(max_tokens) {}
  /// Tokens to guess for each of n_sequences now; 0: it does not pay. Every now and then a few are tried all the same.
  int choose(int n_sequences);
  /// A round of the draft model took so long.
  void drafted(double seconds);
  /// The large model took so long for a step of n_tokens.
  void verified(int64_t n_tokens, double seconds);
  /// n_accepted of n_guessed guesses stood.
  void judged(int n_guessed, int n_accepted);
  double acceptance() const { return acceptance_; }

 private:
  double step_seconds(int64_t n_tokens) const;

  static constexpr int n_known = 65;  // steps of more tokens count as the last
  int max_tokens_;
  double acceptance_ = 0.7;  // the chance that one guess stands
  int limit_ = 2;            // doubled when all guesses stood, so that a poor draft model costs little before it is found out
  double draft_s_ = 0;       // of a round; 0: not known yet
  double step_s_[n_known] = {};
  int n_idle_ = 0;           // steps without guesses in a row
};

/// What the draft model knows of one sequence.
struct Draft {
  KvSequence kv;
  Sampler sampler;
  std::vector<int32_t> tokens;  // guessed for the coming step
  bool possible = true;         // false: the draft model cannot follow this sequence
};

struct DrafterOptions {
  int max_sequences = 8;
  int64_t context = 0;            // positions of a sequence, at most
  uint64_t kv_budget_bytes = 0;   // 0: enough for all sequences, allocated as needed
  int max_batch_tokens = 256;
  int max_tokens = 8;             // guesses of one sequence in a step
};

/// The draft model with its decoder and its own KV cache. Not thread-safe.
class Drafter {
 public:
  Drafter(std::shared_ptr<const Model> model, Team& team, const DrafterOptions& options);

  /// For a new sequence; settings as for its own Sampler. Null if the draft model cannot serve them (they name tokens it has not got).
  std::unique_ptr<Draft> begin(const GenerationConfig& config, int64_t n_prompt, uint64_t stream);
  /// Reads what the draft model has not read of `tokens`.
  void follow(Draft& draft, std::span<const int32_t> tokens);

  struct Job {
    Draft* draft;
    std::vector<int32_t> tokens;   // prompt and answer so far; guesses are appended while they are made
    const Sampler* sampler;        // of the sequence: its random state
    const GenerationConfig* config;
    int n_wanted;
  };
  /// Fills each draft's `tokens` with up to n_wanted guesses, all sequences side by side. An end-of-sequence token ends the guesses.
  void propose(std::span<Job> jobs);

  /// The sequence now has n_tokens; what the draft model read beyond them is forgotten, and the guesses too.
  void settle(Draft& draft, int64_t n_tokens) const;
  /// The sequence ended: what was read is kept for others with the same beginning.
  void end(Draft& draft, std::span<const int32_t> tokens);
  void clear_cache() { cache_.clear(); }

  const Model& model() const { return decoder_.model(); }
  DraftPolicy& policy() { return policy_; }
  uint64_t kv_bytes_used() const { return static_cast<uint64_t>(pool_.used_blocks()) * pool_.layout().block_bytes; }

 private:
  bool reserve(KvSequence& kv, int64_t n_tokens);
  bool knows(std::span<const int32_t> tokens) const;  // all are in the draft model's vocabulary

  DrafterOptions options_;
  KvPool pool_;
  Decoder decoder_;
  PrefixCache cache_;
  DraftPolicy policy_;
  std::vector<BatchItem> batch_;
};

}  // namespace engine
