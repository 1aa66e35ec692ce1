// The only place that uses OpenMP: a team of threads that runs one function as one parallel region.
//
// Work is SPMD: every worker runs the same body, takes chunks of each loop and meets the others at barriers. A whole forward
// pass is one region, so that an operation costs a barrier (about a microsecond), not a fork and join.
#pragma once

#include <algorithm>
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

/// Memory that a worker will read next: n_streams stretches of n_bytes, `stride` bytes from start to start.
struct ReadAhead {
  static constexpr int n_streams = 4;
  const char* data = nullptr;
  int64_t stride = 0, n_bytes = 0;
};

/// One thread of a running team. Valid only inside Team::run's body. Every worker must make the same sequence of calls to
/// barrier(), for_chunks() and for_tapered().
class Worker {
 public:
  int index() const { return index_; }
  int size() const { return size_; }

  /// Asks for this memory while it waits at barriers from now on, in place of what it was told before.
  void read_ahead(const ReadAhead& next) { ahead_ = next, asked_ = 0; }

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

  /// The same with chunks that become smaller towards the end, in multiples of `unit` and at most `largest`: few chunks, and yet nobody
  /// waits long for the last one. The first is nine tenths of this worker's share, and its own; the rest is for who comes first, each time
  /// four fifths of a share of what is left. A worker's share is what it got through in the runs before: cores that other programs or a
  /// sibling slow down take less from the start.
  template <class F>
  void for_tapered(int64_t n, int64_t unit, int64_t largest, F&& f) {
    std::atomic<int64_t>& taken = next_counter();
    const FirstChunk first = first_chunk(n, unit, largest);
    if (first.begin < first.end) f(first.begin, first.end);
    const int64_t left = n - first.rest;
    int64_t begin = taken.load(std::memory_order_relaxed), done = first.end - first.begin;
    while (begin < left) {
      const int64_t size = std::max(unit, (part_of(0.8f, left - begin, index_, largest) + unit - 1) / unit * unit);
      const int64_t end = size < left - begin ? begin + size : left;
      if (!taken.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      f(first.rest + begin, first.rest + end);
      done += end - begin;
      begin = taken.load(std::memory_order_relaxed);
    }
    if (n >= 8 * unit * size_) done_.sum += static_cast<float>(done) / static_cast<float>(n), ++done_.n_loops;  // else chance decides
    barrier();
  }

  /// This worker's first chunk in such a loop, perhaps empty. Everybody's rest begins at `rest`.
  struct FirstChunk {
    int64_t begin, end, rest;
  };
  FirstChunk first_chunk(int64_t n, int64_t unit, int64_t largest) const {
    FirstChunk out{0, 0, 0};
    for (int i = 0; i < size_; ++i) {
      const int64_t begin = out.rest;
      out.rest += std::min(part_of(0.9f, n, i, largest) / unit * unit, n - begin);
      if (i == index_) out.begin = begin, out.end = out.rest;
    }
    return out;
  }

 private:
  friend class Team;
  /// What a worker got through in this run.
  struct alignas(64) Done {
    float sum = 0;  // its shares of the loops, added up
    int n_loops = 0;
  };
  Worker(Team& team, int index, int size, const float* shares, Done& done) : team_(team), index_(index), size_(size), shares_(shares), done_(done) {}
  int64_t part_of(float of_share, int64_t n, int index, int64_t largest) const {
    return std::min(static_cast<int64_t>(static_cast<float>(n) * of_share * shares_[index]), largest);
  }
  std::atomic<int64_t>& next_counter();

  Team& team_;
  int index_;
  int size_;
  const float* shares_;  // [size_] of all work, the same all through a run; they add up to 1
  Done& done_;
  uint64_t n_loops_ = 0;
  ReadAhead ahead_;
  int64_t asked_ = 0;  // bytes of each of its streams that were asked for
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
  void learn_shares();
  int n_threads_;
  std::unique_ptr<Shared> shared_;
};

/// Physical cores that this process may use: the affinity mask, one per SMT sibling pair, capped by the cgroup's CPU quota.
int default_thread_count();

}  // namespace engine
