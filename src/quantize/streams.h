// Sequences on their way through the layers, one layer at a time: in the exact model, and in one that is being quantized.
#pragma once

#include <memory>

#include "quantize/samples.h"

namespace engine {

class Streams {
 public:
  enum Which { exact, student };
  using Observer = std::function<void(const Linear& linear, const float* rows, int64_t n_rows)>;

  /// `sequences` must outlive it.
  Streams(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, int max_logit_rows = 1);

  size_t n_batches() const { return batches_.size(); }
  int64_t n_tokens() const { return n_tokens_; }
  /// Tokens of a batch.
  int64_t n_tokens(size_t batch) const { return batches_[batch].n_tokens; }

  /// Runs a part of a layer with `layers` for weights (null: the model's); with `keep` its residual stream moves on.
  void run(Which which, size_t batch, int layer, LayerPart part, const LayerWeights* layers, const Observer* observe, bool keep);
  /// Runs all layers from `layer` on, nothing kept, and the output matrix: row(token of the batch, logits) in order.
  void run_to_end(Which which, size_t batch, int layer, const LayerWeights* layers,
                  const std::function<void(int64_t token, std::span<const float> logits)>& row);

 private:
  struct Batch {
    std::vector<const std::vector<int32_t>*> sequences;
    int64_t first = 0, n_tokens = 0;
  };
  void forward(size_t batch, const PartialRun& run, LogitsWanted logits);
  float* x(Which which, size_t batch) { return (which == exact ? exact_ : student_).data() + batches_[batch].first * d_; }

  int64_t d_, n_tokens_ = 0;
  Decoder decoder_;
  KvPool pool_;
  std::vector<Batch> batches_;
  std::vector<float> exact_, student_;  // [n_tokens, d_model]
};

}  // namespace engine
