#include "base/threads.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <numeric>
#include <vector>

using namespace engine;

TEST_CASE("Team::run runs the body once on each thread") {
  for (int n = 1; n <= 8; ++n) {
    CAPTURE(n);
    Team team(n);
    REQUIRE(team.size() == n);
    std::vector<std::atomic<int>> calls(n);
    std::atomic<int> wrong_size{0};
    for (int round = 0; round < 50; ++round) {
      team.run([&](Worker& w) {
        ++calls[w.index()];
        if (w.size() != n) ++wrong_size;
      });
    }
    for (int i = 0; i < n; ++i) CHECK(calls[i] == 50);
    CHECK(wrong_size == 0);
  }
}

TEST_CASE("for_chunks covers every index exactly once, whatever the length and the grain") {
  for (int n_threads : {1, 2, 3, 5, 8}) {
    Team team(n_threads);
    for (const auto& [n, grain] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 1}, {1, 1}, {1, 100}, {7, 3}, {8, 8}, {64, 1}, {1000, 7}, {1000, 999}, {1000, 1000}, {1000, 1001}}) {
      CAPTURE(n_threads);
      CAPTURE(n);
      CAPTURE(grain);
      std::vector<std::atomic<int>> seen(n);
      std::atomic<int> bad_ranges{0};
      team.run([&](Worker& w) {
        w.for_chunks(n, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || end != std::min(begin + grain, n)) ++bad_ranges;
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
      });
      int wrong = 0;
      for (const auto& s : seen) wrong += s != 1;
      CHECK(wrong == 0);
      CHECK(bad_ranges == 0);
    }
  }
}

TEST_CASE("Loops follow each other without mixing: each sees all that the one before wrote") {
  // Plain (not atomic) data: a missing barrier or a counter that is reset too early or too late shows as a wrong sum.
  for (int n_threads : {1, 2, 3, 4, 8}) {
    CAPTURE(n_threads);
    Team team(n_threads);
    constexpr int64_t n = 257;
    std::vector<int64_t> a(n), b(n);
    int wrong = 0;
    for (int run = 0; run < 5; ++run) {
      std::fill(a.begin(), a.end(), 1);
      team.run([&](Worker& w) {
        for (int step = 0; step < 50; ++step) {
          w.for_chunks(n, 1 + step % 9, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) b[i] = a[n - 1 - i] + 1;
          });
          w.for_chunks(n, 64, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) a[i] = b[n - 1 - i];
          });
          w.for_chunks(0, 1, [&](int64_t, int64_t) { ++wrong; });
        }
      });
      for (int64_t value : a) wrong += value != 51;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("for_tapered covers every index exactly once, and begins where first_chunk says, whatever the workers' speeds") {
  for (int n_threads : {1, 2, 3, 5, 8}) {
    Team team(n_threads);
    for (const auto& [n, unit, largest] : std::vector<std::array<int64_t, 3>>{
             {0, 32, 100}, {1, 32, 32}, {31, 32, 64}, {64, 64, 64}, {896, 32, 896}, {1000, 1, 7}, {4864, 32, 4864}, {4864, 64, 64}, {100'001, 32, 100'001}}) {
      CAPTURE(n_threads);
      CAPTURE(n);
      CAPTURE(unit);
      for (int run = 0; run < 4; ++run) {  // shares change from run to run
        std::vector<std::atomic<int>> seen(n);
        std::atomic<int> bad{0};
        team.run([&](Worker& w) {
          for (int loop = 0; loop < 3; ++loop) {
            const Worker::FirstChunk first = w.first_chunk(n, unit, largest);
            w.read_ahead({reinterpret_cast<const char*>(seen.data()), 64, std::min<int64_t>(n, 640)});
            bool is_first = true;
            w.for_tapered(n, unit, largest, [&](int64_t begin, int64_t end) {
              if (is_first && first.begin < first.end && (begin != first.begin || end != first.end)) ++bad;
              if (begin % unit != 0 || (end % unit != 0 && end != n) || end - begin > std::max(unit, largest)) ++bad;
              is_first = false;
              for (int64_t i = begin; i < end; ++i) ++seen[i];
              for (volatile int64_t spin = 0; w.index() % 2 == 1 && spin < 3 * (end - begin); spin = spin + 1) {}  // a slow core
            });
          }
        });
        int wrong = 0;
        for (const auto& s : seen) wrong += s != 3;
        CHECK(wrong == 0);
        CHECK(bad == 0);
      }
    }
  }
}

TEST_CASE("barrier: nobody passes before all have arrived") {
  for (int n_threads : {1, 2, 3, 8}) {
    CAPTURE(n_threads);
    Team team(n_threads);
    std::vector<int> at(n_threads, 0);
    std::atomic<int> wrong{0};
    team.run([&](Worker& w) {
      for (int round = 1; round <= 100; ++round) {
        at[w.index()] = round;
        w.barrier();
        for (int other : at) wrong += other != round;
        w.barrier();
      }
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("Teams of different sizes can be used in turn") {
  Team two(2), five(5), one(1);
  int64_t sum = 0;
  for (int i = 0; i < 30; ++i) {
    for (Team* team : {&two, &five, &one}) {
      std::atomic<int64_t> part{0};
      team->run([&](Worker& w) {
        w.for_chunks(100, 9, [&](int64_t begin, int64_t end) { part += end - begin; });
      });
      sum += part;
    }
  }
  CHECK(sum == 30 * 3 * 100);
}

TEST_CASE("default_thread_count is at least one") { CHECK(default_thread_count() >= 1); }
