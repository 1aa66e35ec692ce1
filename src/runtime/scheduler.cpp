#include "runtime/scheduler.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "runtime/answer_text.h"
#include "runtime/drafter.h"
#include "runtime/prefix_cache.h"
#include "runtime/sampler.h"

namespace engine {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::kv_block_tokens;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }
int64_t blocks_for(int64_t n_tokens) { return (n_tokens + kv_block_tokens - 1) / kv_block_tokens; }

/// One request on its way. Tokens that the KV cache does not hold yet are pending: the rest of the prompt, or the token chosen last.
struct Sequence {
  Scheduler::Id id;
  GenerationRequest request;
  std::vector<int32_t> tokens;  // prompt and answer
  int64_t n_prompt;
  int64_t limit;                // new tokens at most
  KvSequence kv;
  Sampler sampler;
  std::unique_ptr<Draft> draft;      // null: no guesses for this one
  std::vector<int32_t> step_tokens;  // while decoding: the token chosen last, and guesses
  std::optional<AnswerText> text;
  GenerationResult result;
  Clock::time_point submitted, first_token;
  bool cancelled = false;
  bool admitted_before = false;

  int64_t n_pending() const { return static_cast<int64_t>(tokens.size()) - kv.size(); }
  int64_t n_new() const { return static_cast<int64_t>(tokens.size()) - n_prompt; }
  bool is_cancelled() const { return cancelled || (request.cancel != nullptr && request.cancel->load(std::memory_order_relaxed)); }
};
using SequencePtr = std::unique_ptr<Sequence>;

/// With max_step_s: tokens of prompts that a step always has room for, and tokens a step must have to be a measure of speed.
constexpr int64_t min_prompt_tokens = 32;

int64_t context_of(const ModelSpec& spec, const SchedulerOptions& options) {
  return options.context > 0 ? options.context : std::max<int64_t>(spec.max_positions, 1);
}

int64_t pool_blocks(const ModelSpec& spec, const SchedulerOptions& options) {
  if (options.kv_budget_bytes > 0) {
    const uint64_t block_bytes = KvLayout::of(spec, options.kv_format).block_bytes;
    if (options.kv_budget_bytes < block_bytes) {
      throw Error("KV cache: expected a budget of at least " + std::to_string(block_bytes) + " bytes, got " +
                  std::to_string(options.kv_budget_bytes));
    }
    return static_cast<int64_t>(options.kv_budget_bytes / block_bytes);
  }
  return blocks_for(context_of(spec, options)) * options.max_sequences;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::none: return "none";
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::time: return "time";
    case FinishReason::cancelled: return "cancelled";
    case FinishReason::error: return "error";
  }
  return "none";
}

struct Scheduler::Impl {
  std::shared_ptr<const Model> model;
  const Tokenizer* tokenizer;
  SchedulerOptions options;
  KvPool pool;
  int64_t context;
  Decoder decoder;
  // One cache for each regime of a position embedding that depends on the length (longrope): keys of one are no use in the other.
  PrefixCache caches[2];
  std::deque<SequencePtr> queue;
  std::vector<SequencePtr> running;  // oldest first
  std::unordered_map<Id, GenerationResult> done;
  Id next_id = 1;
  std::vector<BatchItem> batch;
  std::vector<Sequence*> batch_sequences;
  double s_per_token = 0;  // in the last step that had a prompt; 0: not known yet
  size_t n_decoding = 0;   // of the batch's sequences, the first ones
  std::optional<Drafter> drafter;
  std::vector<float> unmasked;

  Impl(std::shared_ptr<const Model> model_, const Tokenizer* tokenizer_, Team& team, const SchedulerOptions& options_)
      : model(std::move(model_)), tokenizer(tokenizer_), options(options_),
        pool(KvLayout::of(model->spec(), options.kv_format), pool_blocks(model->spec(), options)),
        context(std::min(context_of(model->spec(), options), pool.max_blocks() * kv_block_tokens)),
        decoder(model, team, std::max(options.max_batch_tokens, max_decoded()), max_decoded()),
        caches{PrefixCache(pool), PrefixCache(pool)} {
    if (options.draft_model == nullptr) return;
    drafter.emplace(options.draft_model, team,
                    DrafterOptions{.max_sequences = options.max_sequences, .context = context, .kv_budget_bytes = options.draft_kv_budget_bytes,
                                   .max_batch_tokens = options.max_batch_tokens, .max_tokens = options.max_draft_tokens});
  }

  /// Tokens of all sequences that decode, with their guesses.
  int max_decoded() const { return options.max_sequences + (options.draft_model != nullptr ? options.max_draft_tokens : 0); }

  // --- admission ---------------------------------------------------------------------------------------------------------

  void check(const GenerationRequest& request) const {
    const int64_t n_prompt = static_cast<int64_t>(request.prompt.size());
    if (n_prompt == 0) throw Error("prompt: expected at least one token, got none");
    for (const int32_t id : request.prompt) {
      if (id >= 0 && id < model->spec().vocab_size) continue;
      throw Error("prompt: expected token ids below the model's vocabulary of " + std::to_string(model->spec().vocab_size) + ", got " +
                  std::to_string(id));
    }
    if (n_prompt >= context) {
      const bool more = context < model->spec().max_positions;
      throw Error("prompt: expected fewer than " + std::to_string(context) + " tokens (the context), got " + std::to_string(n_prompt),
                  more ? "the model can take up to " + std::to_string(model->spec().max_positions) + " (--ctx, --mem)" : "");
    }
    if (request.config.new_token_limit(n_prompt, context) <= 0) {
      throw Error("max_length: expected more than the prompt's " + std::to_string(n_prompt) + " tokens, got " +
                      std::to_string(*request.config.max_length),
                  "max_new_tokens counts new tokens only");
    }
    if (tokenizer == nullptr && !request.config.stop_strings.empty()) {
      throw Error("stop_strings: expected a model with a tokenizer, got one without");
    }
  }

  /// Which cache a sequence of this prompt belongs to.
  int regime(int64_t length) const {
    for (const RopeSpec& rope : model->spec().ropes) {
      if (!rope.long_inv_freq.empty() && length > rope.original_positions) return 1;
    }
    return 0;
  }

  /// Guesses that a sequence may have in this step: the answer does not need more, the context holds them, and they do not change which
  /// position embedding is used.
  int64_t draft_room(const Sequence& s) const {
    const int64_t n_tokens = static_cast<int64_t>(s.tokens.size());
    int64_t room = std::min(s.limit - s.n_new(), context - n_tokens) - 1;
    while (room > 0 && regime(n_tokens + room) != regime(n_tokens)) --room;
    return room;
  }

  bool evict() { return caches[0].evict() || caches[1].evict(); }

  /// Blocks that are left when every cached prefix is given up.
  int64_t blocks_beside_running() const {
    std::unordered_set<const std::byte*> held;
    for (const SequencePtr& s : running) held.insert(s->kv.blocks().begin(), s->kv.blocks().end());
    return pool.max_blocks() - static_cast<int64_t>(held.size());
  }

  /// Reserves room for n tokens in kv, giving up cached prefixes for it.
  bool reserve(KvSequence& kv, int64_t n_tokens) {
    while (!kv.reserve(n_tokens)) {
      if (!evict()) return false;
    }
    return true;
  }

  /// Reserves room for all tokens of a sequence that is to run. Cached prefixes are given up only if that is enough.
  bool reserve_to_admit(Sequence& s) {
    const int64_t n_tokens = static_cast<int64_t>(s.tokens.size());
    if (s.kv.reserve(n_tokens)) return true;
    if (!running.empty() && blocks_for(n_tokens) + 1 > blocks_beside_running()) return false;
    return reserve(s.kv, n_tokens);
  }

  void admit() {
    while (static_cast<int>(running.size()) < options.max_sequences && !queue.empty()) {
      Sequence& s = *queue.front();
      const int64_t n_tokens = static_cast<int64_t>(s.tokens.size());
      // The last token is always computed: its logits are not in the cache.
      if (options.prefix_cache) s.kv = caches[regime(s.n_prompt)].find(s.tokens, n_tokens - 1);
      const int64_t n_found = s.kv.size();
      // One that had to make way comes back only once it can run to its end, or it would soon have to go again.
      const bool too_early = s.admitted_before && !running.empty() && blocks_for(s.n_prompt + s.limit) + 1 > blocks_beside_running();
      if (too_early || !reserve_to_admit(s)) {
        s.kv.truncate(0);
        ASSERT(!running.empty());  // the context is no larger than the pool
        return;
      }
      if (!s.admitted_before) s.result.stats.cached_tokens = n_found;
      s.admitted_before = true;
      running.push_back(std::move(queue.front()));
      queue.pop_front();
    }
  }

  // --- the batch -----------------------------------------------------------------------------------------------------------

  /// Takes the youngest sequence out of the running ones and puts it at the head of the queue; what it computed is forgotten.
  void preempt_youngest() {
    SequencePtr s = std::move(running.back());
    running.pop_back();
    s->kv.truncate(0);
    queue.push_front(std::move(s));
  }

  void add_to_batch(Sequence& s, int64_t n_tokens) {
    const auto tokens = std::span<const int32_t>(s.tokens).subspan(static_cast<size_t>(s.kv.size()), static_cast<size_t>(n_tokens));
    const bool last = n_tokens == s.n_pending();
    batch.push_back({&s.kv, tokens, last ? LogitsWanted::last : LogitsWanted::none, s.n_prompt});
    batch_sequences.push_back(&s);
  }

  /// Guesses for the sequences in the batch, all of which are decoding.
  void add_guesses() {
    if (!drafter || batch.empty()) return;
    const int n_sequences = static_cast<int>(batch.size());
    // Each of the others may end its prompt in this step, and needs a row of logits then.
    const int room = max_decoded() - static_cast<int>(running.size());
    const int n_wanted = std::min(drafter->policy().choose(n_sequences), room / n_sequences);
    std::vector<Drafter::Job> jobs;
    for (Sequence* s : batch_sequences) {
      const int n = static_cast<int>(std::min<int64_t>(n_wanted, draft_room(*s)));
      if (s->draft == nullptr && n > 0) s->draft = drafter->begin(s->request.config, s->n_prompt, s->request.stream);
      if (s->draft != nullptr && n > 0) jobs.push_back({s->draft.get(), s->tokens, &s->sampler, &s->request.config, n});
    }
    drafter->propose(jobs);
    for (size_t i = 0; i < batch.size(); ++i) {
      Sequence& s = *batch_sequences[i];
      if (s.draft == nullptr || s.draft->tokens.empty()) continue;
      std::vector<int32_t>& guesses = s.draft->tokens;
      std::erase_if(guesses, [&, wrong = false](int32_t id) mutable { return wrong |= id >= model->spec().vocab_size; });
      // Guesses give no cached prefix up, and make nobody wait.
      if (guesses.empty() || !s.kv.reserve(s.kv.size() + 1 + static_cast<int64_t>(guesses.size()))) {
        guesses.clear();
        continue;
      }
      s.step_tokens.assign(1, s.tokens.back());
      s.step_tokens.insert(s.step_tokens.end(), guesses.begin(), guesses.end());
      s.result.stats.draft_tokens += static_cast<int64_t>(guesses.size());
      batch[i].tokens = s.step_tokens;
      batch[i].logits = LogitsWanted::all;
    }
  }

  /// A token of every sequence that is decoding; what is left of the step is for prompts.
  void build_batch() {
    batch.clear();
    batch_sequences.clear();
    for (size_t i = 0; i < running.size(); ++i) {
      Sequence& s = *running[i];
      if (s.n_pending() != 1) continue;
      bool fits = reserve(s.kv, s.kv.size() + 1);
      while (!fits && running.size() > i + 1) {
        preempt_youngest();
        fits = reserve(s.kv, s.kv.size() + 1);
      }
      if (!fits) {
        ASSERT(i > 0);
        preempt_youngest();  // s itself
        break;
      }
      add_to_batch(s, 1);
    }
    n_decoding = batch.size();
    add_guesses();
    add_prompts();
  }

  /// Tokens that a step may have, so that whoever comes meanwhile waits for max_step_s at most. How prompts are cut changes no result.
  int64_t step_tokens() const {
    const int64_t most = decoder.max_batch_tokens();
    if (options.max_step_s <= 0) return most;
    const double fitting = s_per_token > 0 ? options.max_step_s / s_per_token : 0;
    return static_cast<int64_t>(std::clamp(fitting, static_cast<double>(min_prompt_tokens), static_cast<double>(most)));
  }

  /// Those that are nearest to their end come first, so that a short prompt does not wait for a long one, and equal ones are not all late. The
  /// one that has waited longest gets half of the step at least.
  void add_prompts() {
    std::vector<Sequence*> prompts;
    for (const SequencePtr& s : running) {
      if (s->n_pending() > 1) prompts.push_back(s.get());
    }
    if (prompts.empty()) return;
    const Sequence* eldest = prompts.front();
    std::stable_sort(prompts.begin(), prompts.end(), [](const Sequence* a, const Sequence* b) { return a->n_pending() < b->n_pending(); });
    int64_t n_taken = 0;
    for (const BatchItem& item : batch) n_taken += static_cast<int64_t>(item.tokens.size());
    int64_t room = std::min(std::max(step_tokens() - n_taken, min_prompt_tokens), decoder.max_batch_tokens() - n_taken);
    const int64_t kept = std::min(eldest->n_pending(), (room + 1) / 2);
    room -= kept;
    for (Sequence* s : prompts) {
      if (s == eldest) room += kept;
      const int64_t n = std::min(s->n_pending(), room);
      if (n > 0) add_to_batch(*s, n);
      room -= n;
    }
  }

  /// Runs the batch, and learns how long its tokens take.
  void forward() {
    const Clock::time_point start = Clock::now();
    // The draft model reads prompts along with the large one.
    for (size_t i = n_decoding; drafter && i < batch.size(); ++i) {
      Sequence& s = *batch_sequences[i];
      if (s.draft == nullptr) s.draft = drafter->begin(s.request.config, s.n_prompt, s.request.stream);
      const auto n_read = static_cast<size_t>(s.kv.size()) + batch[i].tokens.size();
      if (s.draft != nullptr) drafter->follow(*s.draft, std::span<const int32_t>(s.tokens).first(n_read));
    }
    const Clock::time_point drafted = Clock::now();
    decoder.forward(batch);
    const Clock::time_point end = Clock::now();
    int64_t n_tokens = 0;
    for (const BatchItem& item : batch) n_tokens += static_cast<int64_t>(item.tokens.size());
    if (n_tokens >= min_prompt_tokens) s_per_token = seconds(end - start) / static_cast<double>(n_tokens);
    if (drafter && n_decoding == batch.size()) drafter->policy().verified(n_tokens, seconds(end - drafted));
  }

  // --- what comes out ------------------------------------------------------------------------------------------------------

  void show(Sequence& s) {
    if (!s.text) return;
    const std::string piece = s.text->take();
    if (piece.empty()) return;
    s.result.text += piece;
    if (s.request.on_text) s.request.on_text(piece);
  }

  /// The reason to end after the token that was just added; none: go on.
  FinishReason add_token(Sequence& s, int32_t token) {
    const Clock::time_point now = Clock::now();
    if (s.n_new() == 0) s.first_token = now;
    s.tokens.push_back(token);
    s.result.stats.decode_s = seconds(now - s.first_token);
    if (s.request.on_token) s.request.on_token(token);
    const bool stop_string = s.text && s.text->push(token);
    show(s);
    if (s.request.config.is_eos(token) || stop_string) return FinishReason::stop;
    if (s.request.constraint && s.request.constraint->finished()) return FinishReason::stop;
    if (s.request.enough && s.request.enough()) return FinishReason::stop;
    if (s.n_new() >= s.limit) return FinishReason::length;
    const auto& max_time = s.request.config.max_time;
    return max_time && seconds(now - s.submitted) > *max_time ? FinishReason::time : FinishReason::none;
  }

  /// Moves the result to `done` and the keys and values to the cache. The sequence is left empty.
  void finish(Sequence& s, FinishReason reason) {
    if (s.text) {
      s.text->finish();
      show(s);
    }
    GenerationResult& r = s.result;
    r.tokens.assign(s.tokens.begin() + s.n_prompt, s.tokens.end());
    r.reason = reason;
    r.stats.prompt_tokens = s.n_prompt;
    r.stats.completion_tokens = s.n_new();
    r.stats.prefill_s = seconds((s.n_new() > 0 ? s.first_token : Clock::now()) - s.submitted);
    if (s.draft != nullptr) drafter->end(*s.draft, s.tokens);
    if (reason != FinishReason::error) keep(s, s.kv.size());
    s.kv.truncate(0);
    done.emplace(s.id, std::move(r));
  }

  /// Puts the first n tokens' keys and values into the cache.
  void keep(Sequence& s, int64_t n) {
    if (!options.prefix_cache || n == 0 || regime(n) != regime(s.n_prompt)) return;
    caches[regime(n)].insert(std::span<const int32_t>(s.tokens).first(static_cast<size_t>(n)), s.kv.share(n));
  }

  void end_cancelled() {
    const auto sweep = [&](auto& sequences) {
      for (const SequencePtr& s : sequences) {
        if (s->is_cancelled()) finish(*s, FinishReason::cancelled);
      }
      std::erase_if(sequences, [&](const SequencePtr& s) { return done.contains(s->id); });
    };
    sweep(queue);
    sweep(running);
  }

  /// A token that is not allowed is drawn again from those that are: their shares are those of the masked scores, and most often there is nothing
  /// to mask.
  int32_t choose(Sequence& s, std::span<float> logits) {
    TokenConstraint* const constraint = s.request.constraint.get();
    if (constraint == nullptr) return s.sampler.sample(logits, s.tokens);
    unmasked.assign(logits.begin(), logits.end());
    int32_t token = s.sampler.sample(logits, s.tokens);
    if (!constraint->allows(token)) {
      if (constraint->mask(unmasked) == 0) {
        throw Error("constraint: expected a token that the answer's form allows, the vocabulary has none, or the form has too many ways to go on");
      }
      token = s.sampler.sample(unmasked, s.tokens);
      // Settings that force a token (an end at the last place) know nothing of the form.
      if (!constraint->allows(token)) throw Error("constraint: expected a token that the answer's form allows, got one that the settings force");
    }
    constraint->accept(token);
    return token;
  }

  /// The next token from row `row` of the logits on, and one more for each guess that it confirms.
  FinishReason take_tokens(Sequence& s, const BatchItem& item, int row) {
    const size_t n_guesses = item.logits == LogitsWanted::all ? item.tokens.size() - 1 : 0;
    size_t n_accepted = 0;
    FinishReason reason = FinishReason::none;
    try {
      while (true) {
        const std::span<float> logits = decoder.logits(row + static_cast<int>(n_accepted));
        if (s.request.on_logits) s.request.on_logits(logits, std::span<const int32_t>(s.tokens).subspan(static_cast<size_t>(s.n_prompt)));
        const int32_t token = choose(s, logits);
        const bool accepted = n_accepted < n_guesses && token == item.tokens[n_accepted + 1];
        n_accepted += accepted;
        reason = add_token(s, token);
        if (!accepted || reason != FinishReason::none) break;
      }
    } catch (const Error& error) {
      s.result.error = error.message;
      reason = FinishReason::error;
    }
    // What was computed after the wrong guess is forgotten.
    const int64_t n_tokens = static_cast<int64_t>(s.tokens.size());
    if (s.kv.size() >= n_tokens) s.kv.truncate(n_tokens - 1);
    s.result.stats.accepted_tokens += static_cast<int64_t>(n_accepted);
    if (n_guesses > 0) drafter->policy().judged(static_cast<int>(n_guesses), static_cast<int>(n_accepted));
    if (s.draft != nullptr) drafter->settle(*s.draft, n_tokens);
    return reason;
  }

  void collect() {
    int row = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      Sequence& s = *batch_sequences[i];
      const int64_t n_done = s.kv.size();
      const bool in_prompt = n_done - static_cast<int64_t>(batch[i].tokens.size()) < s.n_prompt;
      if (in_prompt && s.request.on_prefill) s.request.on_prefill(std::min(n_done, s.n_prompt), s.n_prompt);
      if (batch[i].logits == LogitsWanted::none) continue;
      // Others with the same beginning need not wait until this one is finished. Whole blocks only, so that nothing has to be copied.
      if (in_prompt) keep(s, s.n_prompt / kv_block_tokens * kv_block_tokens);
      const FinishReason reason = take_tokens(s, batch[i], row);
      row += batch[i].logits == LogitsWanted::all ? static_cast<int>(batch[i].tokens.size()) : 1;
      if (reason != FinishReason::none) finish(s, reason);
    }
    std::erase_if(running, [&](const SequencePtr& s) { return done.contains(s->id); });
  }
};

Scheduler::Scheduler(std::shared_ptr<const Model> model, const Tokenizer* tokenizer, Team& team, const SchedulerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), tokenizer, team, options)) {}
Scheduler::~Scheduler() = default;

Scheduler::Id Scheduler::submit(GenerationRequest request) {
  impl_->check(request);
  const int64_t n_prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = request.config.new_token_limit(n_prompt, impl_->context);
  Sampler sampler(request.config, impl_->model->spec().vocab_size, n_prompt, request.stream);
  std::optional<AnswerText> text;
  if (impl_->tokenizer != nullptr) {
    text.emplace(*impl_->tokenizer, request.prompt, request.config.stop_strings, request.skip_special_tokens, request.keep_stop_string,
                 request.shown_special);
  }
  const Id id = impl_->next_id++;
  std::vector<int32_t> tokens = request.prompt;
  impl_->queue.push_back(std::make_unique<Sequence>(Sequence{.id = id,
                                                             .request = std::move(request),
                                                             .tokens = std::move(tokens),
                                                             .n_prompt = n_prompt,
                                                             .limit = limit,
                                                             .kv = KvSequence(impl_->pool),
                                                             .sampler = std::move(sampler),
                                                             .draft = nullptr,
                                                             .step_tokens = {},
                                                             .text = std::move(text),
                                                             .result = {},
                                                             .submitted = Clock::now(),
                                                             .first_token = {}}));
  return id;
}

bool Scheduler::step() {
  const bool any = !impl_->queue.empty() || !impl_->running.empty();
  impl_->end_cancelled();
  impl_->admit();
  impl_->build_batch();
  if (impl_->batch.empty()) return any;
  impl_->forward();
  impl_->collect();
  return true;
}

bool Scheduler::finished(Id id) const { return impl_->done.contains(id); }

GenerationResult Scheduler::take(Id id) {
  const auto found = impl_->done.find(id);
  ASSERT(found != impl_->done.end());
  GenerationResult result = std::move(found->second);
  impl_->done.erase(found);
  return result;
}

void Scheduler::cancel(Id id) {
  for (const SequencePtr& s : impl_->queue) {
    if (s->id == id) s->cancelled = true;
  }
  for (const SequencePtr& s : impl_->running) {
    if (s->id == id) s->cancelled = true;
  }
}

GenerationResult Scheduler::run(GenerationRequest request) {
  const Id id = submit(std::move(request));
  while (!finished(id)) ASSERT(step());
  return take(id);
}

int64_t Scheduler::context() const { return impl_->context; }
Decoder& Scheduler::decoder() { return impl_->decoder; }
const Model* Scheduler::draft_model() const { return impl_->options.draft_model.get(); }
int64_t Scheduler::n_running() const { return static_cast<int64_t>(impl_->running.size()); }
int64_t Scheduler::n_queued() const { return static_cast<int64_t>(impl_->queue.size()); }
uint64_t Scheduler::kv_bytes_used() const {
  const uint64_t of_drafts = impl_->drafter ? impl_->drafter->kv_bytes_used() : 0;
  return static_cast<uint64_t>(impl_->pool.used_blocks()) * impl_->pool.layout().block_bytes + of_drafts;
}
void Scheduler::clear_cache() {
  for (PrefixCache& cache : impl_->caches) cache.clear();
  if (impl_->drafter) impl_->drafter->clear_cache();
}

}  // namespace engine
