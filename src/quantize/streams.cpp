#include "quantize/streams.h"

#include <algorithm>

#include "base/error.h"

namespace engine {
namespace {

constexpr int64_t max_batch_tokens = 1024;

int batch_tokens(const Sequences& sequences, int max_logit_rows) {
  int64_t longest = 1, total = 0;
  for (const auto& s : sequences) {
    longest = std::max(longest, static_cast<int64_t>(s.size()));
    total += static_cast<int64_t>(s.size());
  }
  const int64_t most = max_logit_rows > 1 ? std::min<int64_t>(max_batch_tokens, max_logit_rows) : max_batch_tokens;
  return static_cast<int>(std::max(longest, std::min(total, most)));
}

}  // namespace

Streams::Streams(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, int max_logit_rows)
    : d_(model->spec().d_model), decoder_(model, team, batch_tokens(sequences, max_logit_rows), max_logit_rows),
      pool_(KvLayout::of(model->spec(), kernels::KvFormat::f32), decoder_.max_batch_tokens()) {
  int64_t n = 0;
  for (const auto& sequence : sequences) {
    const auto length = static_cast<int64_t>(sequence.size());
    if (batches_.empty() || n + length > decoder_.max_batch_tokens()) {
      batches_.push_back({{}, n_tokens_, 0});
      n = 0;
    }
    batches_.back().sequences.push_back(&sequence);
    batches_.back().n_tokens += length;
    n += length;
    n_tokens_ += length;
  }
  exact_.resize(static_cast<size_t>(n_tokens_ * d_));
  for (size_t b = 0; b < batches_.size(); ++b) {
    PartialRun embed;
    embed.x_out = x(exact, b);
    forward(b, embed, LogitsWanted::none);
  }
  student_ = exact_;
}

void Streams::run(Which which, size_t batch, int layer, LayerPart part, const LayerWeights* layers, const Observer* observe, bool keep) {
  PartialRun run;
  run.first_layer = layer;
  run.end_layer = layer + 1;
  run.part = part;
  run.layers = layers;
  run.x_in = x(which, batch);
  run.x_out = keep ? x(which, batch) : nullptr;
  run.observe = observe;
  forward(batch, run, LogitsWanted::none);
}

void Streams::run_to_end(Which which, size_t batch, int layer, const LayerWeights* layers,
                         const std::function<void(int64_t, std::span<const float>)>& row) {
  PartialRun run;
  run.first_layer = layer;
  run.end_layer = decoder_.model().spec().n_layers;
  run.layers = layers;
  run.x_in = x(which, batch);
  run.logits = true;
  forward(batch, run, LogitsWanted::all);
  for (int i = 0; i < decoder_.n_logit_rows(); ++i) row(i, decoder_.logits(i));
}

void Streams::forward(size_t batch, const PartialRun& run, LogitsWanted logits) {
  std::vector<KvSequence> kv;
  std::vector<BatchItem> items;
  kv.reserve(batches_[batch].sequences.size());
  for (const auto* sequence : batches_[batch].sequences) {
    kv.emplace_back(pool_);
    ASSERT(kv.back().reserve(static_cast<int64_t>(sequence->size())));
    items.push_back({&kv.back(), *sequence, logits, 0});
  }
  decoder_.run_partial(items, run);
}

}  // namespace engine
