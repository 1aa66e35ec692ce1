#include "runtime/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "model/decoder.h"

namespace engine {
namespace {

constexpr int64_t chunk_tokens = 256;
constexpr int64_t default_window = 2048;
constexpr uint64_t max_logit_bytes = uint64_t{64} << 20;

/// Runs sequences through a model and hands out every position's logits.
class LogitsRunner {
 public:
  LogitsRunner(std::shared_ptr<const Model> model, Team& team, int64_t max_length, kernels::KvFormat format)
      : n_rows_(rows(model->spec())),
        decoder_(model, team, static_cast<int>(n_rows_), static_cast<int>(n_rows_)),
        pool_(KvLayout::of(model->spec(), format), (max_length + kernels::kv_block_tokens - 1) / kernels::kv_block_tokens) {}

  template <class F>
  void run(std::span<const int32_t> tokens, F&& row) {
    KvSequence kv(pool_);
    for (size_t at = 0; at < tokens.size();) {
      const auto part = tokens.subspan(at, std::min(tokens.size() - at, static_cast<size_t>(n_rows_)));
      ASSERT(kv.reserve(static_cast<int64_t>(at + part.size())));
      const BatchItem item{&kv, part, LogitsWanted::all, static_cast<int64_t>(tokens.size())};
      decoder_.forward({&item, 1});
      for (size_t i = 0; i < part.size(); ++i) row(static_cast<int64_t>(at + i), decoder_.logits(static_cast<int>(i)));
      at += part.size();
    }
  }

 private:
  /// Rows of logits at once: a chunk's, as long as they take little memory.
  static int64_t rows(const ModelSpec& spec) {
    return std::clamp<int64_t>(static_cast<int64_t>(max_logit_bytes / (sizeof(float) * static_cast<uint64_t>(spec.vocab_size))), 1,
                               chunk_tokens);
  }

  int64_t n_rows_;
  Decoder decoder_;
  KvPool pool_;
};

/// log(sum(exp(x))) in double.
double log_sum_exp(std::span<const float> x) {
  const float top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v) - static_cast<double>(top));
  return static_cast<double>(top) + std::log(sum);
}

int64_t argmax(std::span<const float> x) { return kernels::table().argmax(x.data(), static_cast<int64_t>(x.size())); }

/// KL(p || q) of two rows of logits.
double divergence(std::span<const float> p, std::span<const float> q) {
  const double p_total = log_sum_exp(p), q_total = log_sum_exp(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = static_cast<double>(p[i]) - p_total;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - q_total));
  }
  return kl;
}

void check_ids(std::span<const int32_t> ids, int vocab_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw Error("token ids: expected ids from 0 to " + std::to_string(vocab_size - 1) + " (the model's vocabulary), got " + std::to_string(id));
  }
}

}  // namespace

void batch_logits(std::shared_ptr<const Model> model, Team& team, std::span<const int64_t> ids, int64_t n_sequences, int64_t length,
                  const std::function<void(int64_t, int64_t, std::span<const float>)>& row, kernels::KvFormat kv_format) {
  ASSERT(n_sequences >= 0 && length >= 0 && static_cast<int64_t>(ids.size()) == n_sequences * length);
  const int vocab_size = model->spec().vocab_size;
  std::vector<int32_t> tokens(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      throw Error("input_ids: expected ids from 0 to " + std::to_string(vocab_size - 1) + " (the model's vocabulary), got " +
                  std::to_string(ids[i]));
    }
    tokens[i] = static_cast<int32_t>(ids[i]);
  }
  LogitsRunner runner(model, team, length, kv_format);
  for (int64_t s = 0; s < n_sequences; ++s) {
    runner.run(std::span(tokens).subspan(static_cast<size_t>(s * length), static_cast<size_t>(length)),
               [&](int64_t position, std::span<const float> logits) { row(s, position, logits); });
  }
}

PerplexityResult perplexity(std::shared_ptr<const Model> model, Team& team, std::span<const int32_t> ids, std::optional<int32_t> bos,
                            const PerplexityOptions& options, std::shared_ptr<const Model> against) {
  const int vocab_size = model->spec().vocab_size;
  check_ids(ids, vocab_size);
  if (against && against->spec().vocab_size != vocab_size) {
    throw Error("--against: expected a model with the same vocabulary of " + std::to_string(vocab_size) + ", got " +
                std::to_string(against->spec().vocab_size));
  }
  const int64_t n_ids = static_cast<int64_t>(ids.size());
  int64_t context = options.context;
  if (context == 0) context = std::min(model->spec().max_positions > 0 ? model->spec().max_positions : default_window, default_window);
  if (context < 2) throw Error("--ctx: expected at least 2 positions, got " + std::to_string(context));
  const int64_t window = context - 1;
  if (options.stride > window) {
    throw Error("--stride: expected at most " + std::to_string(window) + " (--ctx less one), got " + std::to_string(options.stride));
  }
  const int64_t stride = options.stride > 0 ? options.stride : window;

  LogitsRunner runner(model, team, context, options.kv_format);
  std::unique_ptr<LogitsRunner> other;
  if (against) other = std::make_unique<LogitsRunner>(against, team, context, natural_kv_format(*against));

  PerplexityResult result;
  double nll = 0, kl = 0;
  int64_t n_agree = 0;
  int64_t counted = bos ? 0 : 1;  // ids before this one are predicted already (or, without a bos, cannot be)
  std::vector<int32_t> input;
  std::vector<float> reference;
  for (int64_t start = 0; counted < n_ids; start += stride) {
    const int64_t end = std::min(start + window, n_ids);
    input.assign(ids.begin() + start, ids.begin() + end - 1);
    const bool has_lead = bos || start > 0;
    if (has_lead) input.insert(input.begin(), bos ? *bos : ids[static_cast<size_t>(start) - 1]);
    const auto target_of = [&](int64_t position) { return start + position + (has_lead ? 0 : 1); };
    if (other) {
      reference.clear();
      other->run(input, [&](int64_t position, std::span<const float> logits) {
        if (target_of(position) >= counted) reference.insert(reference.end(), logits.begin(), logits.end());
      });
    }
    runner.run(input, [&](int64_t position, std::span<const float> logits) {
      const int64_t target = target_of(position);
      if (target < counted) return;
      nll += log_sum_exp(logits) - static_cast<double>(logits[static_cast<size_t>(ids[static_cast<size_t>(target)])]);
      ++result.n_tokens;
      if (!other) return;
      const auto row = std::span<const float>(reference).subspan(static_cast<size_t>((target - counted) * vocab_size), logits.size());
      kl += divergence(row, logits);
      n_agree += argmax(row) == argmax(logits);
    });
    counted = std::max(counted, end);
    if (options.progress) options.progress(counted, n_ids);
  }
  if (result.n_tokens == 0) throw Error("perplexity: expected a text of at least " + std::string(bos ? "one token" : "two tokens") + ", got " + std::to_string(n_ids));
  const double n = static_cast<double>(result.n_tokens);
  result.nll = nll / n;
  result.perplexity = std::exp(result.nll);
  result.mean_kl = kl / n;
  result.top1_agreement = static_cast<double>(n_agree) / n;
  return result;
}

}  // namespace engine
