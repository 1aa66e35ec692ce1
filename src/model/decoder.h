// The forward pass, the only one: any mix of sequences and positions in one ragged batch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/threads.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace engine {

enum class LogitsWanted : uint8_t { none, last, all };

/// Consecutive new tokens of one sequence: they take positions kv->size(), kv->size() + 1, ...; the caller has reserved room in kv.
struct BatchItem {
  KvSequence* kv = nullptr;
  std::span<const int32_t> tokens;  // not empty, ids below vocab_size
  LogitsWanted logits = LogitsWanted::last;
  /// Length the sequence is known to reach (its whole prompt while that comes in chunks). Models whose position embedding depends on the
  /// length (longrope) take the larger of this and what the batch reaches; others ignore it.
  int64_t known_length = 0;
};

/// Scratch memory and threads for forward passes over one model. Not thread-safe; several decoders may share a Model.
class Decoder {
 public:
  /// At most max_batch_tokens tokens and max_logit_rows rows of logits in one forward().
  Decoder(std::shared_ptr<const Model> model, Team& team, int max_batch_tokens = 256, int max_logit_rows = 32);
  ~Decoder();

  const Model& model() const { return *model_; }
  int max_batch_tokens() const { return max_batch_tokens_; }
  int max_logit_rows() const { return max_logit_rows_; }

  /// Computes the batch, stores keys and values and advances each kv. A sequence may appear once in a batch. Allocates nothing.
  /// Logits rows follow the items' order: `last` gives one row, `all` one a token.
  void forward(std::span<const BatchItem> batch);

  /// Row `row` of the last forward: [vocab_size], writable (processors work in place), valid until the next forward.
  std::span<float> logits(int row);
  int n_logit_rows() const { return n_logit_rows_; }

  uint64_t scratch_bytes() const;

  /// Steps of fewer multiply-adds than this run on the calling thread alone: they take less time than their barriers. The bits are the
  /// same either way; tests set 0 so that tiny models use all threads.
  void set_min_shared_work(uint64_t multiply_adds);

 private:
  struct Impl;
  std::shared_ptr<const Model> model_;
  int max_batch_tokens_, max_logit_rows_, n_logit_rows_ = 0;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine
