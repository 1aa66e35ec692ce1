// Whole-sequence logits, and what follows from them: perplexity of a text, and how far one model's distribution is from another's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/threads.h"
#include "model/model.h"

namespace engine {

/// Logits of a batch of sequences of one length: ids is [n_sequences, length], row-major. Calls row(sequence, position, logits [vocab_size]) in order
/// of position within each sequence; the span is valid during the call. Throws Error for ids outside the vocabulary.
void batch_logits(std::shared_ptr<const Model> model, Team& team, std::span<const int64_t> ids, int64_t n_sequences, int64_t length,
                  const std::function<void(int64_t sequence, int64_t position, std::span<const float> logits)>& row,
                  kernels::KvFormat kv_format = kernels::KvFormat::f32);

struct PerplexityOptions {
  /// Positions of a window; 0: the model's, at most 2048. A window holds context - 1 ids of the text.
  int64_t context = 0;
  /// Ids from one window's start to the next; 0: windows do not overlap. In a window that overlaps the one before, only ids that were not yet
  /// predicted count.
  int64_t stride = 0;
  kernels::KvFormat kv_format = kernels::KvFormat::f32;  // of the first model; `against` has its natural one
  /// Called after each window with ids done and in all; may be empty.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct PerplexityResult {
  int64_t n_tokens = 0;    // predicted ids
  double nll = 0;          // mean negative log likelihood of an id, natural logarithm
  double perplexity = 0;   // exp(nll)
  // With a second model: mean KL(second || first) in nats, and the share of positions where both put the same id first.
  double mean_kl = 0;
  double top1_agreement = 0;
};

/// Cuts `ids` (a text without special tokens) into windows, each fed as bos + ids[:-1] to predict all its ids, with no state kept between
/// windows. Without a bos the id before the window stands in for it, and the text's very first id is not predicted. `against`: the second
/// model (same vocabulary), or null.
/// Throws Error if there is nothing to predict or the vocabularies differ.
PerplexityResult perplexity(std::shared_ptr<const Model> model, Team& team, std::span<const int32_t> ids, std::optional<int32_t> bos,
                            const PerplexityOptions& options, std::shared_ptr<const Model> against = nullptr);

}  // namespace engine
