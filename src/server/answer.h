// What passes between the thread that computes and the one that serves a client: the answers to one request.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/scheduler.h"
#include "text/answer_parser.h"

namespace engine::server {

struct TokenScore {
  int32_t id = 0;
  float logprob = 0;
};

/// A chosen token with the likeliest ones at its place, likeliest first.
struct TokenRecord {
  TokenScore chosen;
  std::vector<TokenScore> top;
};

/// A client's request as the scheduler's thread needs it.
struct Work {
  std::vector<std::vector<int32_t>> prompts;
  int n = 1;                        // answers to each prompt; choice prompt * n + k
  GenerationConfig config;
  bool keep_stop_string = true;     // see GenerationRequest
  bool skip_special_tokens = true;
  std::vector<int32_t> shown_special;  // but not these
  int n_logprobs = -1;              // likeliest tokens to record at each place; -1: record nothing
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::shared_ptr<const Grammar> grammar;  // that answers must follow; null: none
  std::shared_ptr<const AnswerSyntax> syntax;  // how thoughts and calls of tools are read out of answers; null: answers are text
  bool one_call = false;            // answers end with their first call
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();

  int n_choices() const { return static_cast<int>(prompts.size()) * n; }
};

/// The answers to one Work. The scheduler's thread adds, one other thread takes. Adding never waits: what is not taken piles up to a bound, and
/// beyond it the work is cancelled, because its reader is too slow.
class Answer {
 public:
  explicit Answer(Work work);
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  const Work work;

  struct Piece {
    int choice = 0;
    std::string text;
    std::vector<TokenRecord> tokens;          // with n_logprobs >= 0
    std::optional<GenerationResult> result;   // of a choice that is finished
  };
  struct News {
    std::vector<Piece> pieces;
    std::optional<std::string> failed;   // the scheduler's thread broke down: what happened
    int64_t queue_position = 0;          // requests to be served before this one; 0: it is its turn
    int64_t prefill_done = 0, prefill_total = 0;
  };
  /// Whether the scheduler took the work: empty if it did, else why not; nothing if that is not known after `timeout`.
  std::optional<std::string> wait_accepted(std::chrono::milliseconds timeout);
  /// What came since the last call; waits up to `timeout` for something to come. Once every choice's result was handed out nothing comes any more.
  News wait(std::chrono::milliseconds timeout);

  /// Ends all choices at the scheduler's next step.
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  const std::atomic<bool>* cancelled() const { return &cancelled_; }

  // --- the scheduler's side ---
  void accept();
  void refuse(std::string reason);
  void fail(std::string reason);
  void set_queue_position(int64_t position);
  void set_prefill(int64_t done, int64_t total);
  void add_text(int choice, std::string_view text);
  void add_token(int choice, TokenRecord token);
  void finish(int choice, GenerationResult result);
  void set_timed_out() { timed_out_ = true; }
  bool timed_out() const { return timed_out_; }

 private:
  Piece& piece(int choice);  // with mutex_ held

  std::mutex mutex_;
  std::condition_variable changed_;
  News news_;
  bool any_news_ = false;
  std::optional<std::string> verdict_;  // see wait_accepted
  size_t n_pending_bytes_ = 0;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> timed_out_ = false;
};

}  // namespace engine::server
