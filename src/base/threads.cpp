#include "base/threads.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/machine.h"

namespace engine {
namespace {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// How long a worker spins at a barrier before it sleeps: a few tens of microseconds, longer than a well-balanced operation's tail,
/// shorter than a time slice that another process may have taken.
constexpr int spins_before_sleep = 4000;

/// Tells ThreadSanitizer, which does not see how libgomp starts and joins threads, that what was done before a call comes before what follows
/// later ones. What workers do in between it sees: barriers and counters are atomics of ours.
#if defined(__SANITIZE_THREAD__)
std::atomic<int> order_point{0};
void order() { order_point.fetch_add(1, std::memory_order_acq_rel); }
#else
inline void order() {}
#endif

}  // namespace

struct Team::Shared {
  // Two counters suffice: a loop's counter is cleared during the next loop, before whose barrier nobody can reach the one after.
  alignas(64) std::atomic<int64_t> counters[3] = {};
  alignas(64) std::atomic<int> n_arrived{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  std::vector<float> shares;
  std::vector<Worker::Done> done;
};

Team::Team(int n_threads) : n_threads_(n_threads), shared_(std::make_unique<Shared>()) {
  ASSERT(n_threads >= 1);
  shared_->shares.assign(static_cast<size_t>(n_threads), 1.0f / static_cast<float>(n_threads));
  shared_->done.resize(static_cast<size_t>(n_threads));
}

Team::~Team() = default;

void Team::run_alone(FunctionRef<void(Worker&)> body) {
  const float all = 1;
  Worker::Done done;
  Worker worker(*this, 0, 1, &all, done);
  body(worker);
}

// Not sanitized itself: the compiler's record of what the region shares is written and read around libgomp's start.
__attribute__((no_sanitize("thread"))) void Team::run(FunctionRef<void(Worker&)> body) {
  for (auto& c : shared_->counters) c.store(0, std::memory_order_relaxed);
  if (n_threads_ == 1) return run_alone(body);
  bool complete = true;
  order();
#pragma omp parallel num_threads(n_threads_)
  {
    order();
    if (omp_get_num_threads() == n_threads_) {
      const int index = omp_get_thread_num();
      Worker worker(*this, index, n_threads_, shared_->shares.data(), shared_->done[static_cast<size_t>(index)]);
      body(worker);
    } else {
#pragma omp single
      complete = false;
    }
    order();
  }
  order();
  // The runtime may give fewer threads than asked for (a thread limit): barriers would wait for ever, so the team shrinks.
  if (!complete) {
    n_threads_ = 1;
    run(body);
  }
  learn_shares();
}

/// Moves every worker's share towards what it got through, within limits: one bad run should not count for long.
void Team::learn_shares() {
  std::vector<float>& shares = shared_->shares;
  const float equal = 1.0f / static_cast<float>(shares.size());
  for (size_t i = 0; i < shares.size(); ++i) {
    Worker::Done& done = shared_->done[i];
    if (done.n_loops > 0) {
      const float mean = shares[i] + (done.sum / static_cast<float>(done.n_loops) - shares[i]) * 0.5f;
      shares[i] = std::clamp(mean, 0.5f * equal, 1.5f * equal);
    }
    done = {};
  }
  const float sum = std::accumulate(shares.begin(), shares.end(), 0.0f);
  for (float& share : shares) share /= sum;
}

void Worker::barrier() {
  if (size_ == 1) return;
  Team::Shared& s = *team_.shared_;
  const uint32_t generation = s.generation.load(std::memory_order_relaxed);
  if (s.n_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    s.n_arrived.store(0, std::memory_order_relaxed);
    s.generation.store(generation + 1, std::memory_order_release);
    s.generation.notify_all();
    return;
  }
  for (int i = 0; i < spins_before_sleep; ++i) {
    if (s.generation.load(std::memory_order_acquire) != generation) return;
    if (asked_ < ahead_.n_bytes) {
      for (int stream = 0; stream < ReadAhead::n_streams; ++stream) __builtin_prefetch(ahead_.data + stream * ahead_.stride + asked_, 0, 2);
      asked_ += 64;
    } else {
      cpu_relax();
    }
  }
  while (s.generation.load(std::memory_order_acquire) == generation) s.generation.wait(generation, std::memory_order_acquire);
}

std::atomic<int64_t>& Worker::next_counter() {
  Team::Shared& s = *team_.shared_;
  const uint64_t loop = n_loops_++;
  if (index_ == 0) s.counters[(loop + 1) % 3].store(0, std::memory_order_relaxed);
  return s.counters[loop % 3];
}

namespace {

/// The affinity mask; empty if the system does not tell. It is as long as the kernel's own, which may be built for thousands.
std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  for (size_t n_sets = 1; n_sets <= 64 && cpus.empty(); n_sets *= 2) {
    std::vector<cpu_set_t> mask(n_sets);  // zeroed
    const size_t n_bytes = n_sets * sizeof(cpu_set_t);
    if (sched_getaffinity(0, n_bytes, mask.data()) != 0) continue;
    for (size_t cpu = 0; cpu < n_sets * CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET_S(cpu, n_bytes, mask.data())) cpus.push_back(static_cast<int>(cpu));
    }
  }
  return cpus;
}

}  // namespace

int default_thread_count() {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.empty()) return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    // Siblings of one physical core share this list; where it is missing every CPU counts.
    std::string siblings;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    if (!(file >> siblings)) siblings = "cpu" + std::to_string(cpu);
    cores.insert(siblings);
  }
  const int n = static_cast<int>(cores.size());
  const std::optional<double> limit = group_cpus();
  return limit && *limit < n ? std::max(1, static_cast<int>(*limit + 0.5)) : n;
}

}  // namespace engine
