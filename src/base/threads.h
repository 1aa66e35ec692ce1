// The only place that uses OpenMP: a team of threads that runs one function as one parallel region.
//
// Work is SPMD: every worker runs the same body, takes chunks of each loop and meets the others at barriers. A whole forward
// pass is one region, so that an operation costs a barrier (about a microsecond), not a fork and join.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace engine {

/// A reference to a callable; does not own it. For parameters only.
template <class Signature>
class FunctionRef;
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* o, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(o))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

class Team;

/// One thread of a running team. Valid only inside Team::run's body. Every worker must make the same sequence of calls to
/// barrier() and for_chunks().
class Worker {
 public:
  int index() const { return index_; }
  int size() const { return size_; }

  /// Waits until all workers are here. Writes made before it by any worker are visible after it.
  void barrier();

  /// Splits [0, n) into chunks of `grain` that idle workers take in turn: f(begin, end). Ends with a barrier.
  /// Which worker gets which chunk varies from run to run, so f's result must depend on its range alone.
  template <class F>
  void for_chunks(int64_t n, int64_t grain, F&& f) {
    std::atomic<int64_t>& next = next_counter();
    if (size_ == 1) {
      for (int64_t begin = 0; begin < n; begin += grain) f(begin, begin + grain < n ? begin + grain : n);
      return;
    }
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) break;
      f(begin, begin + grain < n ? begin + grain : n);
    }
    barrier();
  }

  /// The same with chunks that become smaller towards the end, each four fifths of this worker's share of what is left, in multiples
  /// of `unit` and at most `largest`: few chunks, and yet nobody waits long for the last one. A worker's share is what it got through
  /// in the loops before: cores that other programs or a sibling slow down take less from the start.
  template <class F>
  void for_tapered(int64_t n, int64_t unit, int64_t largest, F&& f) {
    std::atomic<int64_t>& next = next_counter();
    int64_t begin = next.load(std::memory_order_relaxed), done = 0;
    while (begin < n) {
      const int64_t share = static_cast<int64_t>(static_cast<float>(n - begin) * 0.8f * share_), bounded = share < largest ? share : largest;
      const int64_t size = bounded <= unit ? unit : (bounded + unit - 1) / unit * unit;
      const int64_t end = size < n - begin ? begin + size : n;
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      f(begin, end);
      done += end - begin;
      begin = next.load(std::memory_order_relaxed);
    }
    if (n >= 8 * unit * size_) learn_share(static_cast<float>(done) / static_cast<float>(n));  // else chance decides
    barrier();
  }

 private:
  friend class Team;
  Worker(Team& team, int index, int size, float& share) : team_(team), index_(index), size_(size), share_(share) {}
  void learn_share(float done) {
    const float equal = 1.0f / static_cast<float>(size_), most = 1.5f * equal, least = 0.5f * equal;
    const float mean = share_ + (done - share_) * 0.125f;
    share_ = mean < least ? least : mean > most ? most : mean;
  }
  std::atomic<int64_t>& next_counter();

  Team& team_;
  int index_;
  int size_;
  float& share_;  // of the work in a loop that this worker gets through, a running mean
  uint64_t n_loops_ = 0;
};

/// A fixed number of threads. run() may be called from one thread at a time.
class Team {
 public:
  explicit Team(int n_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return n_threads_; }

  /// Runs body(worker) on every thread and returns when all have finished. The body must not throw.
  void run(FunctionRef<void(Worker&)> body);
  /// Runs it on the calling thread alone, as a team of one: for work that is shorter than waking the others.
  void run_alone(FunctionRef<void(Worker&)> body);

 private:
  friend class Worker;
  struct Shared;
  int n_threads_;
  std::unique_ptr<Shared> shared_;
};

/// Physical cores that this process may use: the affinity mask, one per SMT sibling pair, capped by the cgroup's CPU quota.
int default_thread_count();

}  // namespace engine
