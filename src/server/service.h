// The one thread that owns the scheduler, and the thread-safe door to it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/engine.h"
#include "server/answer.h"

namespace engine::server {

/// There is no room for one more request now.
struct Busy : Error {
  using Error::Error;
};

struct ServiceLimits {
  int parallel = 4;    // answers computed side by side: the scheduler's max_sequences
  int max_queue = 64;  // answers that may wait beyond those
};

/// Upper bounds of the time-to-first-token histogram, seconds; one more bucket counts the rest.
inline constexpr double first_token_bounds[] = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};

struct ServiceMetrics {
  std::atomic<int64_t> running = 0, queued = 0;
  std::atomic<uint64_t> kv_bytes = 0;
  std::atomic<uint64_t> prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0, draft_tokens = 0, accepted_tokens = 0;
  std::atomic<uint64_t> finished = 0, cancelled = 0, timed_out = 0, rejected = 0, steps = 0;
  std::atomic<uint64_t> decode_us = 0;
  std::atomic<uint64_t> first_token[std::size(first_token_bounds) + 1] = {};
  std::atomic<uint64_t> first_token_us = 0;
};

class Service {
 public:
  /// `engine` outlives the service; nobody else uses its scheduler.
  Service(Engine& engine, const ServiceLimits& limits);

  /// Computes until drain() was called and nothing is left to do; sleeps while there is nothing. Returns false if computing failed: then every
  /// request was told and no more are taken.
  bool run();

  /// Queues work for run(). Throws Busy, also while draining; Error if it asks for more answers than can ever wait.
  std::shared_ptr<Answer> submit(Work work);

  /// Takes no more work; what is there may go on for `grace`, then it is cancelled.
  void drain(std::chrono::steady_clock::duration grace);
  bool draining() const { return draining_; }

  const ServiceMetrics& metrics() const { return metrics_; }
  const ServiceLimits& limits() const { return limits_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    std::shared_ptr<Answer> answer;
    int choice;
    Scheduler::Id id;
    bool started = false;  // its prompt is being read
    int n_tokens = 0;
  };
  /// A further answer to a prompt waits until the first one has read it, and then finds it in the prefix cache.
  struct Follower {
    std::shared_ptr<Answer> answer;
    int choice;
  };

  void take_inbox();
  void start(const std::shared_ptr<Answer>& answer);
  void start_choice(const std::shared_ptr<Answer>& answer, int choice);
  void start_followers();
  void check_deadlines();
  void collect();
  void count(const Answer& answer, int choice, const GenerationResult& result);
  void tell_positions();
  void fail_all(const std::string& reason);
  bool idle() const { return running_.empty() && followers_.empty(); }

  Engine& engine_;
  const ServiceLimits limits_;
  ServiceMetrics metrics_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Answer>> inbox_;  // under mutex_
  Clock::time_point drain_deadline_ = Clock::time_point::max();
  std::atomic<bool> draining_ = false;
  std::atomic<int> n_unfinished_ = 0;  // choices between submit() and their end

  // Of run()'s thread alone.
  std::vector<std::unique_ptr<Running>> running_;  // in the order of arrival
  std::vector<Follower> followers_;
};

}  // namespace engine::server
