#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "kernels/kernels.h"
#include "runtime/random.h"

namespace engine {
namespace {

constexpr float minus_inf = -std::numeric_limits<float>::infinity();

/// Below this a division would overflow, where Transformers ends in an exception; the limit of a small temperature is the largest score.
constexpr double greedy_temperature = 1e-30;

inline float exp_float(float x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial for e^r is Cephes' expf. Below the smallest normal number the result is 0.
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float poly = 1.9875691500e-4f;
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = (poly * r) * r + r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(12582912.0f) + 127u) << 23;
  const float result = poly * std::bit_cast<float>(exponent);
  return x < -87.0f ? 0.0f : result;
}

/// Tokens that are still possible, in id order, with their scores; `p` is their softmax once softmax() has been called. Memory only grows:
/// clearing a large vocabulary's worth for each token would cost more than the choice.
struct Candidates {
  std::vector<int32_t> id_memory;
  std::vector<float> score_memory, p_memory;
  std::span<int32_t> id;
  std::span<float> score, p;
  size_t size() const { return id.size(); }

  void resize(size_t n) {
    if (n > id_memory.size()) {
      id_memory.resize(n);
      score_memory.resize(n);
      p_memory.resize(n);
    }
    id = std::span(id_memory).first(n);
    score = std::span(score_memory).first(n);
    p = std::span(p_memory).first(n);
  }

  /// Keeps those for which keep(i) is true. Written without branches, which would be mispredicted.
  template <class F>
  void filter(F&& keep) {
    size_t n = 0;
    for (size_t i = 0; i < size(); ++i) {
      const bool kept = keep(i);
      id[n] = id[i];
      score[n] = score[i];
      p[n] = p[i];
      n += kept;
    }
    resize(n);
  }
};

/// Largest values of blocks of logits: most of a large vocabulary need not be looked at again.
constexpr size_t block_size = 256;

void find_block_maxima(std::span<const float> logits, std::vector<float>& out) {
  out.resize((logits.size() + block_size - 1) / block_size);
  for (size_t b = 0; b < out.size(); ++b) {
    const size_t n = std::min(block_size, logits.size() - b * block_size);
    out[b] = kernels::table().max(logits.data() + b * block_size, static_cast<int64_t>(n));
  }
}

/// Sum in a fixed order: eight interleaved partial sums, so that additions overlap.
double sum_of(std::span<const float> values) {
  double part[8] = {};
  size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    for (int j = 0; j < 8; ++j) part[j] += static_cast<double>(values[i + j]);
  }
  for (int j = 0; i < values.size(); ++i, ++j) part[j] += static_cast<double>(values[i]);
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

float max_of(std::span<const float> values) { return kernels::table().max(values.data(), static_cast<int64_t>(values.size())); }

/// y = exp(x - shift), x <= shift. A plain loop that compilers turn into SIMD.
void exp_all(const float* __restrict x, float shift, float* __restrict y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = exp_float(x[i] - shift);
}

/// p = softmax(score); returns log(sum(exp(score - max))).
double softmax(Candidates& c) {
  const float top = max_of(c.score);
  exp_all(c.score.data(), top, c.p.data(), c.size());
  const double total = sum_of(c.p), scale = 1.0 / total;
  for (float& p : c.p) p = static_cast<float>(static_cast<double>(p) * scale);
  return std::log(total);
}

/// Entropy of the candidates' distribution; p is filled.
double entropy(Candidates& c) {
  const double log_total = softmax(c);
  const float top = max_of(c.score);
  double h = 0;
  for (size_t i = 0; i < c.size(); ++i) h -= static_cast<double>(c.p[i]) * (static_cast<double>(c.score[i] - top) - log_total);
  return h;
}

/// Walks the candidates from the smallest key up (equal keys: the lower index first), adding up p, and returns the place of the first for
/// which `passed(cumulative)` holds; `cumulative` includes the candidate's own p if `inclusive`. -1: none. `passed` must stay true once it
/// is. Instead of sorting all, keys are thrown into bins and only the bin where it happens is sorted.
template <class F>
int64_t first_passed(std::span<const float> key, std::span<const float> p, bool inclusive, F&& passed) {
  constexpr int n_bins = 2048;
  constexpr float bins_per_unit = 64;
  const float low = *std::min_element(key.begin(), key.end());
  const auto bin_of = [&](float k) { return static_cast<int>(std::min((k - low) * bins_per_unit, n_bins - 1.0f)); };
  std::vector<double> mass(n_bins, 0.0);
  for (size_t i = 0; i < key.size(); ++i) mass[bin_of(key[i])] += static_cast<double>(p[i]);

  double before = 0;
  std::vector<int32_t> members;
  for (int b = 0; b < n_bins; ++b) {
    if (!passed(before + mass[b])) {
      before += mass[b];
      continue;
    }
    members.clear();
    for (size_t i = 0; i < key.size(); ++i) {
      if (bin_of(key[i]) == b) members.push_back(static_cast<int32_t>(i));
    }
    std::sort(members.begin(), members.end(), [&](int32_t x, int32_t y) { return key[x] < key[y] || (key[x] == key[y] && x < y); });
    for (int32_t i : members) {
      const double after = before + static_cast<double>(p[i]);
      if (passed(inclusive ? after : before)) return i;
      before = after;
    }
  }
  return -1;
}

/// The k-th largest value, k at most n: values above a rising threshold are gathered and now and then cut back to k. The k-th largest of the
/// blocks' maxima, where there are as many, is a first threshold that leaves few to gather.
float kth_largest(std::span<const float> values, std::span<const float> block_max, size_t k) {
  std::vector<float> best;
  float threshold = minus_inf;
  if (block_max.size() >= k) {
    best.assign(block_max.begin(), block_max.end());
    std::nth_element(best.begin(), best.begin() + static_cast<int64_t>(k - 1), best.end(), std::greater<float>());
    threshold = std::nextafter(best[k - 1], minus_inf);
    best.clear();
  }
  const size_t capacity = std::max<size_t>(4 * k, 256);
  const auto cut = [&] {
    std::nth_element(best.begin(), best.begin() + static_cast<int64_t>(k - 1), best.end(), std::greater<float>());
    best.resize(k);
    threshold = best[k - 1];
  };
  for (size_t b = 0; b < block_max.size(); ++b) {
    if (!(block_max[b] > threshold)) continue;
    for (const float v : values.subspan(b * block_size, std::min(block_size, values.size() - b * block_size))) {
      if (!(v > threshold)) continue;
      best.push_back(v);
      if (best.size() == capacity) cut();
    }
  }
  if (best.size() < k) return minus_inf;  // fewer than k are above -inf
  cut();
  return threshold;
}

}  // namespace

float exp_nonpositive(float x) { return exp_float(x); }

struct Sampler::Impl {
  GenerationConfig config;
  int32_t vocab_size;
  int64_t n_prompt;
  Philox random;
  // Scratch, kept between tokens.
  Candidates candidates;
  std::vector<float> block_max;
  std::vector<float> scratch;

  Impl(const GenerationConfig& config_, int32_t vocab_size_, int64_t n_prompt_, uint64_t stream)
      : config(config_), vocab_size(vocab_size_), n_prompt(n_prompt_), random(seed_of(config_), stream) {
    for (const auto& word : config.bad_words_ids) {
      for (const int32_t id : word) {
        if (id < vocab_size) continue;
        throw Error("bad_words_ids: expected token ids below the vocabulary's " + std::to_string(vocab_size) + ", got " + std::to_string(id));
      }
    }
  }

  static uint64_t seed_of(const GenerationConfig& config) {
    if (config.seed) return *config.seed;
    if (!config.do_sample) return 0;
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }

  bool greedy() const { return !config.do_sample || config.temperature < greedy_temperature; }

  void exclude(std::span<float> logits, const std::vector<int32_t>& ids) const {
    for (const int32_t id : ids) {
      if (id < vocab_size) logits[id] = minus_inf;
    }
  }

  void penalize_repetition(std::span<float> logits, std::span<const int32_t> tokens) {
    // All scores are read before any is written: a token that occurs twice is penalized once.
    const float penalty = static_cast<float>(config.repetition_penalty);
    scratch.resize(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const float score = logits[tokens[i]];
      scratch[i] = score < 0 ? score * penalty : score / penalty;
    }
    for (size_t i = 0; i < tokens.size(); ++i) logits[tokens[i]] = scratch[i];
  }

  void exclude_repeated_ngrams(std::span<float> logits, std::span<const int32_t> tokens) const {
    const size_t n = static_cast<size_t>(config.no_repeat_ngram_size);
    if (tokens.size() + 1 <= n) return;
    const auto prefix = tokens.last(n - 1);
    for (size_t i = 0; i + n <= tokens.size(); ++i) {
      if (std::equal(prefix.begin(), prefix.end(), tokens.begin() + static_cast<int64_t>(i))) logits[tokens[i + n - 1]] = minus_inf;
    }
  }

  void exclude_bad_words(std::span<float> logits, std::span<const int32_t> tokens) const {
    for (const auto& word : config.bad_words_ids) {
      if (word.size() == 1) {
        if (!config.is_eos(word[0])) logits[word[0]] = minus_inf;  // an end-of-sequence token cannot be forbidden this way
      } else if (word.size() <= tokens.size()) {                   // Transformers wants room for the whole word, not just its prefix
        const auto tail = tokens.last(word.size() - 1);
        if (std::equal(tail.begin(), tail.end(), word.begin())) logits[word.back()] = minus_inf;
      }
    }
  }

  /// Transformers' _get_logits_processor, the part that does not depend on do_sample, in its order.
  void run_processors(std::span<float> logits, std::span<const int32_t> tokens) {
    const int64_t n_tokens = static_cast<int64_t>(tokens.size());
    if (config.repetition_penalty != 1) penalize_repetition(logits, tokens);
    if (config.no_repeat_ngram_size > 0) exclude_repeated_ngrams(logits, tokens);
    if (!config.bad_words_ids.empty()) exclude_bad_words(logits, tokens);
    const int64_t min_length = config.min_new_tokens ? n_prompt + *config.min_new_tokens : config.min_length;
    if (n_tokens < min_length) exclude(logits, config.eos_token_id);
    exclude(logits, config.suppress_tokens);
    if (n_tokens == n_prompt) exclude(logits, config.begin_suppress_tokens);
  }

  /// Temperature and top_k: fills `candidates` with what they leave, scores divided. Division keeps the order, so the search can go before it.
  /// Scores end at 1e38: two that overflowed would differ by NaN, of which there is no order.
  void run_temperature_and_top_k(std::span<const float> logits) {
    const float temperature = static_cast<float>(config.temperature);
    const auto divided = [temperature](float logit) {
      constexpr float most = 1e38f;
      const float score = logit / temperature;
      return score > most ? most : score < -most && logit != minus_inf ? -most : score;
    };
    float low = minus_inf;
    if (config.top_k > 0) {
      low = divided(kth_largest(logits, block_max, static_cast<size_t>(std::min<int64_t>(config.top_k, vocab_size))));
    }
    Candidates& c = candidates;
    const auto has_some = [&](float maximum) { return divided(maximum) >= low; };
    c.resize(block_size * static_cast<size_t>(std::count_if(block_max.begin(), block_max.end(), has_some)));
    size_t n = 0;
    for (size_t b = 0; b < block_max.size(); ++b) {
      if (!has_some(block_max[b])) continue;
      for (size_t i = b * block_size; i < std::min(logits.size(), (b + 1) * block_size); ++i) {
        const float score = divided(logits[i]);
        c.id[n] = static_cast<int32_t>(i);
        c.score[n] = score;
        n += score >= low && score != minus_inf;
      }
    }
    c.resize(n);
  }

  void run_top_p() {
    Candidates& c = candidates;
    softmax(c);
    const double total = sum_of(c.p);
    // Transformers sorts ascending and removes while the cumulative sum is at most 1 - top_p, compared in float32. From the other end: a token
    // goes once what is left below and including it has sunk to that. Of equals the lower id stays (torch's sort leaves that open).
    const float limit = static_cast<float>(1.0 - config.top_p);
    // All that are this unlikely do not add up to the limit, so they go without being sorted.
    const float floor = 0.5f * limit / static_cast<float>(c.size());
    c.filter([&](size_t i) { return !(c.p[i] < floor); });
    scratch.resize(c.size());
    for (size_t i = 0; i < c.size(); ++i) scratch[i] = -c.score[i];
    const int64_t cut = first_passed(scratch, c.p, false, [&](double above) { return static_cast<float>(total - above) <= limit; });
    if (cut < 0) return;
    const float cut_key = scratch[static_cast<size_t>(cut)];
    const size_t top = static_cast<size_t>(std::min_element(scratch.begin(), scratch.end()) - scratch.begin());  // stays always
    c.filter([&](size_t i) { return scratch[i] < cut_key || (scratch[i] == cut_key && static_cast<int64_t>(i) < cut) || i == top; });
  }

  size_t likeliest() const {
    return static_cast<size_t>(std::max_element(candidates.p.begin(), candidates.p.end()) - candidates.p.begin());
  }

  void run_min_p() {
    softmax(candidates);
    const size_t top = likeliest();
    const float low = static_cast<float>(*config.min_p) * candidates.p[top];
    candidates.filter([&](size_t i) { return !(candidates.p[i] < low) || i == top; });
  }

  void run_typical() {
    Candidates& c = candidates;
    const float h = static_cast<float>(entropy(c));
    const double log_total = softmax(c);
    const float top = max_of(c.score);
    scratch.resize(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
      const float log_p = static_cast<float>(static_cast<double>(c.score[i] - top) - log_total);
      scratch[i] = std::fabs(-log_p - h);
    }
    const float mass = static_cast<float>(config.typical_p);
    const int64_t last = first_passed(scratch, c.p, true, [&](double sum) { return static_cast<float>(sum) >= mass; });
    if (last < 0) return;
    const float limit = scratch[last];
    c.filter([&](size_t i) { return !(scratch[i] > limit); });
  }

  /// Keeps what is at least as likely as `low`, and the largest in any case. p is filled.
  void keep_above(float low) {
    const float top = max_of(candidates.score);
    candidates.filter([&](size_t i) { return !(candidates.p[i] < low) || !(candidates.score[i] < top); });
  }

  /// The part of _get_logits_processor that sampling adds, in its order; the result is in `candidates`.
  void run_warpers(std::span<const float> logits) {
    run_temperature_and_top_k(logits);
    if (config.top_p < 1) run_top_p();
    if (config.min_p) run_min_p();
    if (config.typical_p < 1) run_typical();
    if (config.epsilon_cutoff > 0) {
      softmax(candidates);
      keep_above(static_cast<float>(config.epsilon_cutoff));
    }
    if (config.eta_cutoff > 0) {
      const float epsilon = static_cast<float>(config.eta_cutoff);
      keep_above(std::min(epsilon, std::sqrt(epsilon) * static_cast<float>(std::exp(-entropy(candidates)))));
    }
  }

  /// Something must be left to choose from, and the model's scores must be numbers.
  void check(std::span<const float> logits) {
    find_block_maxima(logits, block_max);
    const float top = max_of(block_max);
    if (std::isfinite(top)) return;
    if (top == minus_inf && std::none_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
      throw Error("sampling: expected a token to choose from, got none: the settings exclude every one");
    }
    throw Error("sampling: expected numbers as scores, got NaN or infinity from the model");
  }

  int32_t draw() {
    Candidates& c = candidates;
    const float top = max_of(c.score);
    exp_all(c.score.data(), top, c.p.data(), c.size());
    const double target = random.uniform() * sum_of(c.p);
    double sum = 0;
    int32_t last = c.id[0];
    for (size_t i = 0; i < c.size(); ++i) {
      if (!(c.p[i] > 0)) continue;
      sum += static_cast<double>(c.p[i]);
      last = c.id[i];
      if (sum > target) break;
    }
    return last;
  }
};

Sampler::Sampler(const GenerationConfig& config, int32_t vocab_size, int64_t n_prompt, uint64_t stream)
    : impl_(std::make_unique<Impl>(config, vocab_size, n_prompt, stream)) {}
Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;

int32_t Sampler::sample(std::span<float> logits, std::span<const int32_t> tokens) {
  ASSERT(static_cast<int64_t>(logits.size()) == impl_->vocab_size);
  impl_->run_processors(logits, tokens);
  impl_->check(logits);
  if (impl_->greedy()) return static_cast<int32_t>(kernels::table().argmax(logits.data(), impl_->vocab_size));
  impl_->run_warpers(logits);
  return impl_->draw();
}

void Sampler::align(const Sampler& other) { impl_->random = other.impl_->random; }

void Sampler::process(std::span<float> logits, std::span<const int32_t> tokens) const {
  ASSERT(static_cast<int64_t>(logits.size()) == impl_->vocab_size);
  impl_->run_processors(logits, tokens);
  impl_->check(logits);
  if (impl_->greedy()) return;
  impl_->run_warpers(logits);
  std::fill(logits.begin(), logits.end(), minus_inf);
  for (size_t i = 0; i < impl_->candidates.size(); ++i) logits[impl_->candidates.id[i]] = impl_->candidates.score[i];
}

}  // namespace engine
