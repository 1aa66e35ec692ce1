// The forward pass, the only one: any mix of sequences and positions in one ragged batch.
#pragma once

#include <cstdint>
#include <functional>
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

/// Parts of the forward pass, for calibration, which changes weights between them.
enum class LayerPart : uint8_t {
  attention_input,     // nothing is computed but what the first matrices read
  attention,           // with its residual sum
  feed_forward_input,
  feed_forward,        // with its residual sum
  all,
};

struct PartialRun {
  int first_layer = 0, end_layer = 0;  // one layer, unless `part` is all
  LayerPart part = LayerPart::all;
  const LayerWeights* layers = nullptr;  // [n_layers] in place of the model's; null: the model's. In its formats, or float
  const float* x_in = nullptr;         // [tokens of the batch, d_model] the residual stream; null: from the embedding
  float* x_out = nullptr;              // the same afterwards; may be x_in; null: not wanted
  bool logits = false;                 // the batch's logits too
  /// Called once for each set of matrices that read the same rows, with one of the set (q, up or an expert's up; o; down). May be null.
  const std::function<void(const Linear& linear, const float* rows, int64_t n_rows)>* observe = nullptr;
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

  /// Some layers of a forward pass. The sequences do not advance, so that it can be done again.
  void run_partial(std::span<const BatchItem> batch, const PartialRun& run);

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
