#include "runtime/scheduler.h"

#include <doctest/doctest.h>

#include <bit>
#include <numeric>
#include <random>

#include "base/error.h"
#include "runtime/drafter.h"
#include "support.h"
#include "tiny_engine.h"

using namespace engine;
using test::message_of;

namespace {

constexpr int64_t model_context = 256;

std::shared_ptr<const Model> tiny_model(const std::string& name = "llama-untied") {
  return Model::load(test::data_file("models/" + name));
}

std::vector<int32_t> random_prompt(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> out(n);
  for (int32_t& id : out) id = static_cast<int32_t>(3 + random() % 90);
  return out;
}

GenerationRequest request(std::vector<int32_t> prompt, int64_t max_new_tokens, uint64_t seed = 0) {
  GenerationRequest r;
  r.prompt = std::move(prompt);
  r.config.max_new_tokens = max_new_tokens;
  if (seed > 0) {
    r.config.do_sample = true;
    r.config.temperature = 1.5;
    r.config.seed = seed;
  }
  return r;
}

SchedulerOptions options(int max_sequences, int max_batch_tokens, bool cache, uint64_t budget_blocks = 0, const Model* model = nullptr) {
  SchedulerOptions o;
  o.max_sequences = max_sequences;
  o.max_batch_tokens = max_batch_tokens;
  o.prefix_cache = cache;
  if (budget_blocks > 0) o.kv_budget_bytes = budget_blocks * KvLayout::of(model->spec(), o.kv_format).block_bytes;
  return o;
}

/// What a request gave: its tokens, and a hash of the bits of all logits on the way.
struct Trace {
  std::vector<int32_t> tokens;
  std::shared_ptr<uint64_t> logits = std::make_shared<uint64_t>(0);
};

void watch(GenerationRequest& r, Trace& trace) {
  r.on_logits = [hash = trace.logits](std::span<float> logits, std::span<const int32_t>) {
    for (const float x : logits) *hash = (*hash ^ std::bit_cast<uint32_t>(x)) * 0x100000001b3u;
  };
}

/// A mixed load: greedy and sampled, short and long, some with a common beginning.
std::vector<GenerationRequest> mixed_load() {
  std::vector<GenerationRequest> load;
  const std::vector<int32_t> system = random_prompt(40, 99);
  for (uint32_t i = 0; i < 10; ++i) {
    std::vector<int32_t> prompt = i % 3 == 0 ? system : std::vector<int32_t>();
    const std::vector<int32_t> own = random_prompt(1 + (i * 37) % 90, i);
    prompt.insert(prompt.end(), own.begin(), own.end());
    load.push_back(request(std::move(prompt), 5 + (i * 11) % 40, i % 2 == 0 ? 0 : i));
    load.back().config.repetition_penalty = i % 4 == 3 ? 1.3 : 1.0;
  }
  return load;
}

}  // namespace

TEST_CASE("the same bits alone, beside others, in any chunks, from the cache, under a tight budget, on 1, 2 or 3 threads") {
  for (const char* name : {"llama-untied", "mistral-window", "qwen3"}) {
    CAPTURE(name);
    const auto model = tiny_model(name);
    std::vector<Trace> expected;
    Team one(1);
    for (GenerationRequest& r : mixed_load()) {
      Scheduler alone(model, nullptr, one, options(1, 256, false));
      Trace trace;
      watch(r, trace);
      const GenerationResult result = alone.run(std::move(r));
      REQUIRE(result.error == "");
      trace.tokens = result.tokens;
      expected.push_back(trace);
    }
    struct Setting {
      int n_threads, max_sequences, max_batch_tokens;
      bool cache;
      uint64_t budget_blocks;
      const char* draft = "";
    };
    // 256 tokens are 16 blocks; a sequence here takes up to 11.
    for (const Setting& s : {Setting{1, 1, 1, false, 0}, Setting{2, 4, 7, false, 0}, Setting{3, 8, 64, true, 0}, Setting{2, 4, 256, true, 17},
                             Setting{1, 8, 33, true, 24}, Setting{2, 10, 16, false, 30},
                             // with a draft model: itself, and others, whose vocabularies are smaller or larger and whose guesses are mostly wrong
                             Setting{1, 1, 64, true, 0, name}, Setting{2, 4, 16, true, 0, name}, Setting{2, 3, 64, false, 17, name},
                             Setting{1, 4, 64, true, 0, "llama-untied"}, Setting{2, 2, 33, true, 24, "phi3-longrope"}, Setting{1, 1, 7, false, 0, "mistral-window"}}) {
      CAPTURE(s.n_threads);
      CAPTURE(s.draft);
      CAPTURE(s.max_batch_tokens);
      Team team(s.n_threads);
      SchedulerOptions o = options(s.max_sequences, s.max_batch_tokens, s.cache, s.budget_blocks, model.get());
      if (*s.draft != 0) o.draft_model = tiny_model(s.draft);
      Scheduler scheduler(model, nullptr, team, o);
      for (int round = 0; round < 2; ++round) {  // the second time much is in the cache
        std::vector<GenerationRequest> load = mixed_load();
        std::vector<Scheduler::Id> ids;
        std::vector<Trace> traces(load.size());
        for (size_t i = 0; i < load.size(); ++i) {
          GenerationRequest& r = load[i];
          watch(r, traces[i]);
          ids.push_back(scheduler.submit(std::move(r)));
          scheduler.step();
        }
        while (scheduler.step()) {
        }
        for (size_t i = 0; i < ids.size(); ++i) {
          CAPTURE(i);
          REQUIRE(scheduler.finished(ids[i]));
          CHECK(scheduler.take(ids[i]).tokens == expected[i].tokens);
          CHECK(*traces[i].logits == *expected[i].logits);
        }
      }
      scheduler.clear_cache();
      CHECK(scheduler.kv_bytes_used() == 0);
    }
  }
}

TEST_CASE("a draft model that guesses right saves steps, and one that guesses wrong is asked less") {
  Team team(1);
  const auto model = tiny_model();
  for (const uint64_t seed : {0, 7}) {
    CAPTURE(seed);
    SchedulerOptions o = options(1, 64, true);
    o.draft_model = model;
    o.max_draft_tokens = 5;
    Scheduler scheduler(model, nullptr, team, o);
    const Scheduler::Id id = scheduler.submit(request(random_prompt(20, 1), 60, seed));
    int n_steps = 0;
    while (!scheduler.finished(id)) scheduler.step(), ++n_steps;
    const GenerationStats stats = scheduler.take(id).stats;
    CHECK(stats.completion_tokens == 60);
    CHECK(stats.accepted_tokens == stats.draft_tokens);
    CHECK(stats.accepted_tokens + n_steps == 60);  // each step gives one more
    CHECK(stats.draft_tokens >= 1);
  }
  DraftPolicy policy(8);
  for (int i = 0; i < 50; ++i) {
    policy.drafted(0.001);
    policy.verified(1, 0.010);
    policy.verified(9, 0.012);
  }
  for (int i = 0; i < 50; ++i) policy.judged(8, 8);
  CHECK(policy.choose(1) == 8);
  for (int i = 0; i < 200; ++i) policy.judged(8, 0);
  CHECK(policy.acceptance() < 0.05);
  int n_asked = 0;
  for (int i = 0; i < 160; ++i) n_asked += policy.choose(1) > 0;
  CHECK(n_asked == 10);  // one in sixteen, to see whether guesses got better
}

TEST_CASE("a conversation computes only what is new") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(1, 256, true));
  std::vector<int32_t> history = random_prompt(50, 1);
  const GenerationResult first = scheduler.run(request(history, 20));
  CHECK(first.stats.cached_tokens == 0);
  CHECK(first.stats.prompt_tokens == 50);
  CHECK(first.stats.completion_tokens == 20);

  // The last token of an answer was chosen, never fed: 69 of the 70 are known.
  history.insert(history.end(), first.tokens.begin(), first.tokens.end());
  const std::vector<int32_t> question = random_prompt(10, 2);
  history.insert(history.end(), question.begin(), question.end());
  std::vector<int64_t> progress;
  GenerationRequest second = request(history, 5);
  second.on_prefill = [&](int64_t done, int64_t total) {
    CHECK(total == 80);
    progress.push_back(done);
  };
  const GenerationResult again = scheduler.run(std::move(second));
  CHECK(again.stats.cached_tokens == 69);
  CHECK(progress == std::vector<int64_t>{80});

  // The same prompt once more: all but its last token.
  CHECK(scheduler.run(request(history, 5)).stats.cached_tokens == 79);
  CHECK(scheduler.run(request(history, 5)).tokens == again.tokens);
  // An edited turn keeps what stands before it.
  std::vector<int32_t> edited = history;
  edited[60] ^= 1;
  CHECK(scheduler.run(request(edited, 5)).stats.cached_tokens == 60);

  Scheduler fresh(model, nullptr, team, options(1, 256, false));
  CHECK(fresh.run(request(history, 5)).tokens == again.tokens);
  CHECK(fresh.run(request(history, 5)).stats.cached_tokens == 0);
}

TEST_CASE("a prompt is shared as soon as it is computed, not only at the end") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(4, 256, true));
  const auto a = scheduler.submit(request(random_prompt(100, 5), 30));
  scheduler.step();
  const auto b = scheduler.submit(request(random_prompt(100, 5), 3));
  while (!scheduler.finished(b)) scheduler.step();
  CHECK_FALSE(scheduler.finished(a));
  CHECK(scheduler.take(b).stats.cached_tokens == 96);  // whole blocks
}

TEST_CASE("a short prompt does not wait for a long one") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(4, 16, false));
  const auto slow = scheduler.submit(request(random_prompt(200, 1), 2));
  scheduler.step();
  int n_tokens = 0;
  GenerationRequest quick = request(random_prompt(8, 2), 20);
  quick.on_token = [&](int32_t) { ++n_tokens; };
  const auto fast = scheduler.submit(std::move(quick));
  scheduler.step();
  CHECK(n_tokens == 1);
  scheduler.step();
  CHECK(n_tokens == 2);  // and then a token a step
  CHECK_FALSE(scheduler.finished(slow));
  while (scheduler.step()) {
  }
  CHECK(scheduler.finished(fast));
  CHECK(scheduler.finished(slow));
}

TEST_CASE("equal prompts come to their end one after another, and a long one is not starved by short ones") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(4, 16, false));
  std::vector<int> steps_to_first(3, 0);
  int step = 0;
  for (int i = 0; i < 3; ++i) {
    GenerationRequest r = request(random_prompt(32, static_cast<uint32_t>(i + 1)), 1);
    r.on_token = [&, i](int32_t) { steps_to_first[static_cast<size_t>(i)] = step; };
    scheduler.submit(std::move(r));
  }
  for (step = 1; scheduler.step(); ++step) {
  }
  CHECK(steps_to_first == std::vector<int>{2, 4, 6});

  const auto long_one = scheduler.submit(request(random_prompt(200, 9), 1));
  scheduler.step();
  int n_steps = 1;
  for (uint32_t seed = 100; !scheduler.finished(long_one); ++n_steps) {
    while (scheduler.n_running() + scheduler.n_queued() < 4) scheduler.submit(request(random_prompt(16, seed++), 1));
    scheduler.step();
  }
  CHECK(n_steps <= 1 + (200 - 16) / 8 + 1);  // half of 16 tokens at every step
}

TEST_CASE("steps are cut to the time they may take, and results stay the same") {
  const auto model = tiny_model();
  Team team(1);
  const std::vector<int32_t> prompt = random_prompt(200, 5);
  Scheduler plain(model, nullptr, team, options(2, 256, false));
  const GenerationResult expected = plain.run(request(prompt, 8));
  SchedulerOptions cut = options(2, 256, false);
  for (const double limit : {1e-9, 1e9}) {
    cut.max_step_s = limit;
    Scheduler scheduler(model, nullptr, team, cut);
    std::vector<int64_t> sizes;
    int64_t before = 0;
    GenerationRequest r = request(prompt, 8);
    r.on_prefill = [&](int64_t done, int64_t) {
      sizes.push_back(done - before);
      before = done;
    };
    CHECK(scheduler.run(std::move(r)).tokens == expected.tokens);
    // The first step is small, as nothing is known of the speed; then as many as fit, but never fewer than 32.
    CHECK(sizes == (limit < 1 ? std::vector<int64_t>{32, 32, 32, 32, 32, 32, 8} : std::vector<int64_t>{32, 168}));
  }
}

TEST_CASE("how an answer ends") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(2, 256, true));
  const std::vector<int32_t> prompt = random_prompt(20, 3);
  const GenerationResult plain = scheduler.run(request(prompt, 30));
  CHECK(plain.reason == FinishReason::length);
  CHECK(plain.tokens.size() == 30);

  SUBCASE("by an end-of-sequence token, which is part of the tokens") {
    GenerationRequest r = request(prompt, 30);
    r.config.eos_token_id = {101, plain.tokens[7]};
    const GenerationResult result = scheduler.run(std::move(r));
    const auto first = std::find(plain.tokens.begin(), plain.tokens.end(), plain.tokens[7]);
    CHECK(result.reason == FinishReason::stop);
    CHECK(result.tokens == std::vector<int32_t>(plain.tokens.begin(), first + 1));
  }
  SUBCASE("by the context") {
    const GenerationResult result = scheduler.run(request(random_prompt(250, 4), 30));
    CHECK(result.reason == FinishReason::length);
    CHECK(result.tokens.size() == 6);
  }
  SUBCASE("by 20 tokens when nothing is said, by max_length otherwise") {
    GenerationRequest r = request(prompt, 1);
    r.config.max_new_tokens.reset();
    CHECK(scheduler.run(r).tokens.size() == 20);
    r.config.max_length = 33;
    CHECK(scheduler.run(r).tokens.size() == 13);
  }
  SUBCASE("by time") {
    GenerationRequest r = request(prompt, 30);
    r.config.max_time = 0;
    const GenerationResult result = scheduler.run(std::move(r));
    CHECK(result.reason == FinishReason::time);
    CHECK(result.tokens.size() == 1);
  }
  SUBCASE("by an error, which leaves the others alone") {
    GenerationRequest bad = request(prompt, 30);
    bad.config.suppress_tokens.resize(static_cast<size_t>(model->spec().vocab_size));
    std::iota(bad.config.suppress_tokens.begin(), bad.config.suppress_tokens.end(), 0);
    const auto good_id = scheduler.submit(request(prompt, 30));
    const GenerationResult result = scheduler.run(std::move(bad));
    CHECK(result.reason == FinishReason::error);
    CHECK(result.error == "sampling: expected a token to choose from, got none: the settings exclude every one");
    while (scheduler.step()) {
    }
    CHECK(scheduler.take(good_id).tokens == plain.tokens);
  }
}

TEST_CASE("cancelling takes effect within one step, in the queue, in the prompt and in the answer") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(2, 16, true));
  std::atomic<bool> flag{false};
  GenerationRequest flagged = request(random_prompt(5, 1), 200);
  flagged.cancel = &flag;
  const auto answering = scheduler.submit(std::move(flagged));
  const auto in_prompt = scheduler.submit(request(random_prompt(200, 2), 10));
  const auto queued = scheduler.submit(request(random_prompt(10, 3), 10));
  for (int i = 0; i < 4; ++i) scheduler.step();
  CHECK(scheduler.n_running() == 2);
  CHECK(scheduler.n_queued() == 1);
  flag = true;
  scheduler.cancel(in_prompt);
  scheduler.cancel(queued);
  scheduler.cancel(12345);
  scheduler.step();
  for (const auto id : {answering, in_prompt, queued}) REQUIRE(scheduler.finished(id));
  CHECK(scheduler.n_running() + scheduler.n_queued() == 0);
  const GenerationResult kept = scheduler.take(answering);
  CHECK(kept.reason == FinishReason::cancelled);
  CHECK(kept.tokens.size() == 4);
  CHECK(scheduler.take(in_prompt).tokens.empty());
  CHECK_FALSE(scheduler.step());
  // What was computed is not lost.
  CHECK(scheduler.run(request(random_prompt(200, 2), 1)).stats.cached_tokens > 0);
}

TEST_CASE("requests that cannot be served are refused at once") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(2, 16, true));
  CHECK(scheduler.context() == model_context);
  CHECK(message_of([&] { scheduler.submit(request({}, 5)); }) == "prompt: expected at least one token, got none");
  CHECK(message_of([&] { scheduler.submit(request(random_prompt(256, 1), 5)); }) ==
        "prompt: expected fewer than 256 tokens (the context), got 256");
  CHECK(message_of([&] { scheduler.submit(request({5, 103}, 5)); }) ==
        "prompt: expected token ids below the model's vocabulary of 103, got 103");
  CHECK(message_of([&] { scheduler.submit(request({5, -1}, 5)); }) ==
        "prompt: expected token ids below the model's vocabulary of 103, got -1");
  GenerationRequest long_enough = request(random_prompt(20, 1), 1);
  long_enough.config.max_new_tokens.reset();
  long_enough.config.max_length = 20;
  CHECK(message_of([&] { scheduler.submit(long_enough); }) == "max_length: expected more than the prompt's 20 tokens, got 20");
  GenerationRequest stop = request({5}, 5);
  stop.config.stop_strings = {"x"};
  CHECK(message_of([&] { scheduler.submit(stop); }) == "stop_strings: expected a model with a tokenizer, got one without");
  GenerationRequest words = request({5}, 5);
  words.config.bad_words_ids = {{500}};
  CHECK(message_of([&] { scheduler.submit(words); }) == "bad_words_ids: expected token ids below the vocabulary's 103, got 500");
  CHECK(scheduler.n_queued() == 0);

  SchedulerOptions small = options(1, 16, true);
  small.kv_budget_bytes = 10;
  CHECK(message_of([&] { Scheduler(model, nullptr, team, small); }).find("KV cache: expected a budget of at least") == 0);
  Scheduler tight(model, nullptr, team, options(1, 16, true, 3, model.get()));
  CHECK(tight.context() == 48);
  CHECK(tight.run(request(random_prompt(40, 1), 100)).tokens.size() == 8);
}

TEST_CASE("prompts end beside sequences that have all the guesses there is room for") {
  const auto model = tiny_model();
  Team team(1);
  SchedulerOptions o = options(8, 256, true);
  o.draft_model = model;
  Scheduler scheduler(model, nullptr, team, o);
  int64_t n_drafted = 0;
  for (uint32_t round = 0; round < 150; ++round) {
    std::vector<Scheduler::Id> ids;
    for (uint32_t i = 0; i < 8; ++i) {
      // Some decode, and then the others come all at once.
      if (i == 3 + round % 4) {
        for (uint32_t n = 0; n < 2 + round % 3; ++n) scheduler.step();
      }
      ids.push_back(scheduler.submit(request(random_prompt(3 + i % 2, round * 8 + i), 12)));
    }
    while (scheduler.step()) {
    }
    for (const auto id : ids) {
      const GenerationResult result = scheduler.take(id);
      CHECK(result.tokens.size() == 12);
      n_drafted += result.stats.draft_tokens;
    }
  }
  CHECK(n_drafted > 0);
}

TEST_CASE("streams of one seed differ, the same stream does not") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(2, 256, true));
  const auto run = [&](uint64_t stream) {
    GenerationRequest r = request(random_prompt(10, 1), 30, 7);
    r.stream = stream;
    return scheduler.run(std::move(r)).tokens;
  };
  CHECK(run(0) == run(0));
  CHECK(run(0) != run(1));
}

TEST_CASE("many requests in a row leave nothing behind") {
  const auto model = tiny_model();
  Team team(1);
  Scheduler scheduler(model, nullptr, team, options(4, 32, true, 20, model.get()));
  std::mt19937 random(11);
  std::vector<Scheduler::Id> ids;
  for (int i = 0; i < 200; ++i) {
    ids.push_back(scheduler.submit(request(random_prompt(1 + random() % 120, random() % 5), 1 + static_cast<int64_t>(random() % 30))));
    if (random() % 3 == 0) scheduler.cancel(ids[random() % ids.size()]);
    for (uint32_t n = random() % 6; n > 0; --n) scheduler.step();
  }
  while (scheduler.step()) {
  }
  for (const auto id : ids) {
    REQUIRE(scheduler.finished(id));
    scheduler.take(id);
  }
  scheduler.clear_cache();
  CHECK(scheduler.kv_bytes_used() == 0);
}
