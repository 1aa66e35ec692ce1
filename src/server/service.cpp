#include "server/service.h"

#include <algorithm>

#include "server/token_scores.h"

namespace engine::server {
namespace {

uint64_t microseconds(double seconds) { return static_cast<uint64_t>(std::max(seconds, 0.0) * 1e6); }

}  // namespace

Service::Service(Engine& engine, const ServiceLimits& limits) : engine_(engine), limits_(limits) {}

std::shared_ptr<Answer> Service::submit(Work work) {
  const int n = work.n_choices();
  const int room = limits_.parallel + limits_.max_queue;
  if (n > room) {
    throw Error("n: expected at most " + std::to_string(room) + " answers in all (--parallel and --queue), got " + std::to_string(n));
  }
  auto answer = std::make_shared<Answer>(std::move(work));
  {
    const std::lock_guard lock(mutex_);
    if (draining_ || n_unfinished_ + n > room) {
      ++metrics_.rejected;
      throw Busy(draining_ ? "the server is going down" : "too many requests are waiting", "try again later");
    }
    n_unfinished_ += n;
    inbox_.push_back(answer);
  }
  wake_.notify_one();
  return answer;
}

void Service::drain(Clock::duration grace) {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    drain_deadline_ = std::min(drain_deadline_, Clock::now() + grace);
  }
  wake_.notify_one();
}

bool Service::run() {
  Scheduler& scheduler = engine_.scheduler();
  try {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        if (idle()) wake_.wait(lock, [this] { return !inbox_.empty() || draining_; });
        if (idle() && inbox_.empty()) return true;
      }
      take_inbox();
      check_deadlines();
      scheduler.step();
      ++metrics_.steps;
      collect();
      start_followers();
      tell_positions();
      metrics_.running = scheduler.n_running();
      metrics_.queued = n_unfinished_ - scheduler.n_running();
      metrics_.kv_bytes = scheduler.kv_bytes_used();
    }
  } catch (const std::exception& error) {
    fail_all(error.what());
    return false;
  }
}

void Service::take_inbox() {
  std::vector<std::shared_ptr<Answer>> arrived;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
  }
  for (const auto& answer : arrived) start(answer);
}

void Service::start(const std::shared_ptr<Answer>& answer) {
  const int n = answer->work.n;
  int n_started = 0;
  try {
    for (size_t prompt = 0; prompt < answer->work.prompts.size(); ++prompt) {
      start_choice(answer, static_cast<int>(prompt) * n);
      ++n_started;
    }
  } catch (const Error& error) {
    answer->refuse(error.message + (error.hint.empty() ? "" : " (" + error.hint + ")"));
    // Those that are running already count themselves when they end.
    answer->cancel();
    n_unfinished_ -= answer->work.n_choices() - n_started;
    return;
  }
  for (int choice = 0; choice < answer->work.n_choices(); ++choice) {
    if (choice % n != 0) followers_.push_back({answer, choice});
  }
  answer->accept();
}

void Service::start_choice(const std::shared_ptr<Answer>& answer, int choice) {
  const Work& work = answer->work;
  auto running = std::make_unique<Running>(Running{answer, choice, 0});
  Running* r = running.get();
  GenerationRequest request;
  request.prompt = work.prompts[static_cast<size_t>(choice / work.n)];
  request.config = work.config;
  request.stream = static_cast<uint64_t>(choice % work.n);
  request.skip_special_tokens = work.skip_special_tokens;
  request.shown_special = work.shown_special;
  request.keep_stop_string = work.keep_stop_string;
  if (work.grammar != nullptr) {
    request.constraint = std::make_shared<GrammarConstraint>(work.grammar, engine_.token_table(), work.config.eos_token_id);
  }
  request.cancel = answer->cancelled();
  request.on_text = [answer, choice](std::string_view text) { answer->add_text(choice, text); };
  if (work.syntax != nullptr && work.one_call) {
    const std::shared_ptr<AnswerParser> parser = make_answer_parser(*work.syntax);
    request.on_text = [answer, choice, parser](std::string_view text) {
      answer->add_text(choice, text);
      parser->push(text);
      parser->take();
    };
    request.enough = [parser] { return parser->n_calls() > 0; };
  }
  request.on_prefill = [answer, r](int64_t done, int64_t total) {
    r->started = true;
    answer->set_prefill(done, total);
  };
  auto scores = std::make_shared<TokenScores>(work);
  if (scores->needed()) {
    request.on_logits = [scores](std::span<float> logits, std::span<const int32_t> tokens) { scores->see(logits, tokens); };
  }
  request.on_token = [answer, r, choice, scores](int32_t token) {
    ++r->n_tokens;
    if (answer->work.n_logprobs >= 0) answer->add_token(choice, scores->record(token));
  };
  r->id = engine_.scheduler().submit(std::move(request));
  running_.push_back(std::move(running));
}

void Service::start_followers() {
  std::erase_if(followers_, [this](const Follower& f) {
    const int leader = f.choice / f.answer->work.n * f.answer->work.n;
    for (const auto& r : running_) {
      if (r->answer == f.answer && r->choice == leader && r->n_tokens == 0) return false;
    }
    start_choice(f.answer, f.choice);
    return true;
  });
}

void Service::check_deadlines() {
  const Clock::time_point now = Clock::now();
  Clock::time_point drain_deadline;
  {
    const std::lock_guard lock(mutex_);
    drain_deadline = drain_deadline_;
  }
  for (const auto& r : running_) {
    if (now < std::min(r->answer->work.deadline, drain_deadline)) continue;
    r->answer->set_timed_out();
    r->answer->cancel();
  }
}

void Service::collect() {
  Scheduler& scheduler = engine_.scheduler();
  std::erase_if(running_, [&](const std::unique_ptr<Running>& r) {
    if (!scheduler.finished(r->id)) return false;
    GenerationResult result = scheduler.take(r->id);
    if (result.reason == FinishReason::cancelled && r->answer->timed_out()) result.reason = FinishReason::time;
    count(*r->answer, r->choice, result);
    --n_unfinished_;
    r->answer->finish(r->choice, std::move(result));
    return true;
  });
}

void Service::count(const Answer& answer, int choice, const GenerationResult& result) {
  const GenerationStats& stats = result.stats;
  ++(result.reason == FinishReason::cancelled ? metrics_.cancelled : result.reason == FinishReason::time ? metrics_.timed_out : metrics_.finished);
  metrics_.completion_tokens += static_cast<uint64_t>(stats.completion_tokens);
  metrics_.draft_tokens += static_cast<uint64_t>(stats.draft_tokens);
  metrics_.accepted_tokens += static_cast<uint64_t>(stats.accepted_tokens);
  metrics_.decode_us += microseconds(stats.decode_s);
  if (choice % answer.work.n != 0) return;  // the same prompt again
  metrics_.prompt_tokens += static_cast<uint64_t>(stats.prompt_tokens);
  metrics_.cached_tokens += static_cast<uint64_t>(stats.cached_tokens);
  if (stats.completion_tokens == 0) return;
  const auto* bound = std::lower_bound(std::begin(first_token_bounds), std::end(first_token_bounds), stats.prefill_s);
  ++metrics_.first_token[bound - std::begin(first_token_bounds)];
  metrics_.first_token_us += microseconds(stats.prefill_s);
}

void Service::tell_positions() {
  int64_t n_before = 0;
  for (const auto& r : running_) {
    if (r->started) continue;
    ++n_before;
    if (r->choice == 0) r->answer->set_queue_position(n_before);
  }
  for (const auto& r : running_) {
    if (r->started && r->choice == 0) r->answer->set_queue_position(0);
  }
}

void Service::fail_all(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  for (const auto& answer : inbox_) answer->fail(reason);
  for (const auto& r : running_) r->answer->fail(reason);
  for (const Follower& f : followers_) f.answer->fail(reason);
}

}  // namespace engine::server
