#include "runtime/drafter.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace engine {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::kv_block_tokens;

constexpr double forget = 0.1;      // weight of what was just measured
constexpr double token_cost = 0.05; // of a further token in a step, as a share of a step's time: a guess until it is measured
constexpr int idle_steps = 16;      // without guesses before some are tried again
constexpr int tried_again = 2;

void blend(double* mean, double value) { *mean = *mean == 0 ? value : *mean + forget * (value - *mean); }

int64_t pool_blocks(const Model& model, const DrafterOptions& options) {
  const uint64_t block_bytes = KvLayout::of(model.spec(), natural_kv_format(model)).block_bytes;
  if (options.kv_budget_bytes > 0) return std::max<int64_t>(1, static_cast<int64_t>(options.kv_budget_bytes / block_bytes));
  return (options.context + kv_block_tokens - 1) / kv_block_tokens * options.max_sequences;
}

}  // namespace

// --- how many ------------------------------------------------------------------------------------------------------------

double DraftPolicy::step_seconds(int64_t n_tokens) const {
  // The nearest size that was measured; from there on tokens cost a little each.
  const int64_t at = std::min<int64_t>(n_tokens, n_known - 1);
  for (int64_t distance = 0; distance < n_known; ++distance) {
    for (const int64_t known : {at - distance, at + distance}) {
      if (known < 1 || known >= n_known || step_s_[known] == 0) continue;
      return step_s_[known] * (1 + token_cost * static_cast<double>(at)) / (1 + token_cost * static_cast<double>(known));
    }
  }
  return 0;
}

int DraftPolicy::choose(int n_sequences) {
  int best = 0;
  double best_speed = 0, tokens = 1, chance = 1;
  for (int n = 0; n <= std::min(limit_, max_tokens_); ++n) {
    // n guesses give one token, and one more for each guess that stands with all before it.
    if (n > 0) tokens += chance *= acceptance_;
    const double seconds = step_seconds(int64_t{n_sequences} * (n + 1)) + n * draft_s_;
    const double speed = seconds > 0 ? tokens / seconds : tokens;
    if (speed > best_speed) best = n, best_speed = speed;
  }
  n_idle_ = best > 0 ? 0 : n_idle_ + 1;
  if (n_idle_ < idle_steps) return best;
  n_idle_ = 0;
  return std::min({tried_again, limit_, max_tokens_});
}

void DraftPolicy::drafted(double seconds) { blend(&draft_s_, seconds); }

void DraftPolicy::verified(int64_t n_tokens, double seconds) { blend(&step_s_[std::min<int64_t>(n_tokens, n_known - 1)], seconds); }

void DraftPolicy::judged(int n_guessed, int n_accepted) {
  limit_ = n_accepted == n_guessed ? std::min(2 * limit_, max_tokens_) : n_accepted + 1;
  // Guesses after the first wrong one say nothing.
  const int n_judged = std::min(n_guessed, n_accepted + 1);
  for (int i = 0; i < n_judged; ++i) acceptance_ += forget / 2 * ((i < n_accepted ? 1.0 : 0.0) - acceptance_);
  acceptance_ = std::clamp(acceptance_, 0.01, 0.99);
}

// --- the draft model ---------------------------------------------------------------------------------------------------------

Drafter::Drafter(std::shared_ptr<const Model> model, Team& team, const DrafterOptions& options)
    : options_(options), pool_(KvLayout::of(model->spec(), natural_kv_format(*model)), pool_blocks(*model, options)),
      decoder_(model, team, std::max(options.max_batch_tokens, 2 * options.max_sequences), options.max_sequences), cache_(pool_),
      policy_(options.max_tokens) {
  options_.context = std::min(options.context, model->spec().max_positions);
}

std::unique_ptr<Draft> Drafter::begin(const GenerationConfig& config, int64_t n_prompt, uint64_t stream) {
  GenerationConfig own = config;
  own.seed = 0;  // each proposal starts from the sequence's own random state
  try {
    return std::make_unique<Draft>(Draft{KvSequence(pool_), Sampler(own, model().spec().vocab_size, n_prompt, stream), {}});
  } catch (const Error&) {
    return nullptr;
  }
}

bool Drafter::reserve(KvSequence& kv, int64_t n_tokens) {
  while (!kv.reserve(n_tokens)) {
    if (!cache_.evict()) return false;
  }
  return true;
}

bool Drafter::knows(std::span<const int32_t> tokens) const {
  return std::all_of(tokens.begin(), tokens.end(), [this](int32_t id) { return id < model().spec().vocab_size; });
}

void Drafter::follow(Draft& draft, std::span<const int32_t> tokens) {
  const int64_t n_wanted = static_cast<int64_t>(tokens.size());
  if (!draft.possible || draft.kv.size() >= n_wanted) return;
  draft.possible = n_wanted < options_.context && knows(tokens.subspan(static_cast<size_t>(draft.kv.size())));
  if (!draft.possible) return draft.kv.truncate(0);
  if (draft.kv.size() == 0) draft.kv = cache_.find(tokens, n_wanted);
  if (!reserve(draft.kv, n_wanted)) {
    draft.possible = false;
    return draft.kv.truncate(0);
  }
  while (draft.kv.size() < n_wanted) {
    const int64_t n = std::min<int64_t>(n_wanted - draft.kv.size(), decoder_.max_batch_tokens());
    const BatchItem item{&draft.kv, tokens.subspan(static_cast<size_t>(draft.kv.size()), static_cast<size_t>(n)), LogitsWanted::none, n_wanted};
    decoder_.forward(std::span(&item, 1));
  }
}

void Drafter::propose(std::span<Job> jobs) {
  std::vector<size_t> active;
  for (size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    job.draft->tokens.clear();
    job.draft->sampler.align(*job.sampler);
    // What it lacks of the sequence is mostly the token chosen last, and the last guess if that stood.
    if (static_cast<int64_t>(job.tokens.size()) - job.draft->kv.size() > 2) follow(*job.draft, std::span<const int32_t>(job.tokens).first(job.tokens.size() - 1));
    if (job.draft->possible && job.n_wanted > 0) active.push_back(i);
  }
  const auto unread = [](const Job& job) { return std::span<const int32_t>(job.tokens).subspan(static_cast<size_t>(job.draft->kv.size())); };
  while (true) {
    std::erase_if(active, [&](size_t i) {
      const Job& job = jobs[i];
      const std::vector<int32_t>& guessed = job.draft->tokens;
      const bool ended = !guessed.empty() && job.config->is_eos(guessed.back());
      const int64_t n = static_cast<int64_t>(job.tokens.size());
      return ended || static_cast<int>(guessed.size()) == job.n_wanted || n >= options_.context || !knows(unread(job)) || !reserve(job.draft->kv, n);
    });
    if (active.empty()) return;
    batch_.clear();
    for (const size_t i : active) {
      const Job& job = jobs[i];
      batch_.push_back({&job.draft->kv, unread(job), LogitsWanted::last, static_cast<int64_t>(job.tokens.size())});
    }
    const Clock::time_point start = Clock::now();
    decoder_.forward(batch_);
    int row = 0;
    std::erase_if(active, [&](size_t i) {
      Job& job = jobs[i];
      try {
        const int32_t token = job.draft->sampler.sample(decoder_.logits(row++), job.tokens);
        job.draft->tokens.push_back(token);
        job.tokens.push_back(token);
        return false;
      } catch (const Error&) {
        return true;  // nothing left to choose from: the large model may still have something
      }
    });
    policy_.drafted(std::chrono::duration<double>(Clock::now() - start).count());
  }
}

void Drafter::settle(Draft& draft, int64_t n_tokens) const {
  draft.tokens.clear();
  if (draft.kv.size() >= n_tokens) draft.kv.truncate(n_tokens - 1);
}

void Drafter::end(Draft& draft, std::span<const int32_t> tokens) {
  settle(draft, static_cast<int64_t>(tokens.size()));
  const int64_t n = draft.kv.size();
  if (n > 0) cache_.insert(tokens.first(static_cast<size_t>(n)), std::move(draft.kv));
  draft.kv.truncate(0);
}

}  // namespace engine
