#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>

#include "../tests/support.h"
#include "base/error.h"
#include "runtime/random.h"
#include "runtime/sampler.h"

using namespace engine;

namespace {

constexpr float minus_inf = -std::numeric_limits<float>::infinity();

std::vector<float> floats(const Json& row) {
  std::vector<float> out;
  for (const Json& x : row) out.push_back(x.is_null() ? minus_inf : static_cast<float>(x.get<double>()));
  return out;
}

/// As in tools/make_processor_goldens.py.
std::vector<float> large_logits(uint32_t n, uint32_t seed) {
  std::vector<float> out(n);
  for (uint32_t i = 0; i < n; ++i) {
    double x = 0;
    for (uint32_t j = 0; j < 4; ++j) {
      uint32_t h = (i * 4 + j + seed) * 2654435761u;
      h = (h ^ (h >> 15)) * 2246822519u;
      h = (h ^ (h >> 13)) * 3266489917u;
      x += ((h ^ (h >> 16)) >> 8) / 16777216.0;
    }
    out[i] = static_cast<float>((x - 2.0) * 8.0);
  }
  return out;
}

Sampler sampler_for(const Json& one, size_t n_vocab) {
  GenerationConfig config;
  config.apply(one["settings"], "golden", false);
  return Sampler(config, static_cast<int32_t>(n_vocab), one["n_prompt"].get<int64_t>());
}

GenerationConfig sampling(uint64_t seed) {
  GenerationConfig config;
  config.do_sample = true;
  config.top_k = 0;
  config.seed = seed;
  return config;
}

}  // namespace

TEST_CASE("processors and warpers give Transformers' scores") {
  const Json goldens = read_json_file(test::data_file("processors/goldens.json"));
  int n = 0;
  for (const Json& one : goldens["cases"]) {
    CAPTURE(dump_json(one["settings"]));
    CAPTURE(one["input"].get<std::string>());
    const std::vector<float> input = floats(goldens["inputs"][one["input"].get<std::string>()]);
    std::vector<float> scores = input;
    const auto tokens = one["tokens"].get<std::vector<int32_t>>();
    sampler_for(one, input.size()).process(scores, tokens);
    std::vector<float> expected_scores;
    for (size_t i = 0; i < scores.size(); ++i) {
      const Json& cell = one["expected"][i];
      expected_scores.push_back(cell.is_string() ? input[i] : cell.is_null() ? minus_inf : static_cast<float>(cell.get<double>()));
    }
    // Which of several equal scores top_p leaves out is up to torch's sort, which is not stable: only how many can be compared.
    const bool tied = one["input"] == "ties" || one["input"] == "uniform";
    if (tied && one["settings"].contains("top_p")) {
      std::sort(scores.begin(), scores.end());
      std::sort(expected_scores.begin(), expected_scores.end());
    }
    for (size_t i = 0; i < scores.size(); ++i) {
      const float expected = expected_scores[i];
      CAPTURE(i);
      REQUIRE((scores[i] == minus_inf) == (expected == minus_inf));
      if (expected != minus_inf) REQUIRE(std::fabs(scores[i] - expected) <= 1e-6f * std::max(1.0f, std::fabs(expected)));
    }
    ++n;
  }
  CHECK(n > 250);
}

TEST_CASE("the same for a vocabulary of 150,000") {
  const Json goldens = read_json_file(test::data_file("processors/goldens.json"));
  for (const Json& one : goldens["large"]) {
    CAPTURE(dump_json(one["settings"]));
    std::vector<float> scores = large_logits(one["n_vocab"].get<uint32_t>(), one["seed"].get<uint32_t>());
    const auto tokens = one["tokens"].get<std::vector<int32_t>>();
    sampler_for(one, scores.size()).process(scores, tokens);
    std::vector<int32_t> kept;
    double sum = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] == minus_inf) continue;
      kept.push_back(static_cast<int32_t>(i));
      sum += static_cast<double>(scores[i]);
    }
    CHECK(static_cast<int64_t>(kept.size()) == one["n_kept"].get<int64_t>());
    CHECK(std::accumulate(kept.begin(), kept.end(), int64_t{0}) == one["id_sum"].get<int64_t>());
    CHECK(std::fabs(sum - one["score_sum"].get<double>()) < 1e-6 * sum);
    const auto first = one["kept"].get<std::vector<int32_t>>();
    CHECK(std::equal(first.begin(), first.end(), kept.begin()));
  }
}

TEST_CASE("greedy takes the first largest score, also at temperature 0") {
  std::vector<float> logits = {1, 5, 3, 5, -2};
  GenerationConfig config;
  const std::vector<int32_t> tokens = {0};
  CHECK(Sampler(config, 5, 1).sample(logits, tokens) == 1);
  config.do_sample = true;
  config.temperature = 0;
  CHECK(Sampler(config, 5, 1).sample(logits, tokens) == 1);
  config.temperature = 1e-300;
  CHECK(Sampler(config, 5, 1).sample(logits, tokens) == 1);
}

TEST_CASE("draws follow the probabilities") {
  // Chi-squared over 40,000 draws; 5 degrees of freedom, 0.1% limit 20.5.
  const std::vector<float> base = {0.0f, 1.0f, 2.0f, -1.0f, minus_inf, 0.5f, -3.0f};
  double total = 0;
  for (float x : base) total += std::exp(static_cast<double>(x));
  Sampler sampler(sampling(123), static_cast<int32_t>(base.size()), 1);
  std::vector<int> counts(base.size());
  constexpr int n = 40000;
  const std::vector<int32_t> tokens = {0};
  for (int i = 0; i < n; ++i) {
    std::vector<float> logits = base;
    ++counts[static_cast<size_t>(sampler.sample(logits, tokens))];
  }
  CHECK(counts[4] == 0);
  double chi = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    if (i == 4) continue;
    const double expected = n * std::exp(static_cast<double>(base[i])) / total;
    chi += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  CHECK(chi < 20.5);
}

TEST_CASE("a seed fixes the draws, streams differ, and the choices are these on every machine") {
  const auto draw = [](uint64_t seed, uint64_t stream) {
    Sampler sampler(sampling(seed), 1000, 1, stream);
    std::vector<int32_t> ids;
    const std::vector<int32_t> tokens = {0};
    for (int i = 0; i < 8; ++i) {
      std::vector<float> logits = large_logits(1000, 3);
      ids.push_back(sampler.sample(logits, tokens));
    }
    return ids;
  };
  CHECK(draw(1, 0) == draw(1, 0));
  CHECK(draw(1, 0) != draw(2, 0));
  CHECK(draw(1, 0) != draw(1, 1));
  CHECK(draw(42, 0) == std::vector<int32_t>{335, 311, 505, 505, 761, 311, 670, 311});
}

TEST_CASE("Philox gives the published values") {
  // Known answers of Random123's kat_vectors for philox4x32-10: counter and key all zero, and all ones.
  CHECK(Philox(0, 0).bits(0) == 0xe169c58d6627e8d5u);
  CHECK(Philox(~uint64_t{0}, ~uint64_t{0}).bits(~uint64_t{0}) == 0x41c83b0e408f276du);
  Philox random(5, 6);
  for (int i = 0; i < 1000; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
  }
}

TEST_CASE("exp_nonpositive is exp to 2 units in the last place") {
  float worst = 0;
  for (float x = 0; x > -87; x -= 0.00137f) {
    const float expected = static_cast<float>(std::exp(static_cast<double>(x)));
    worst = std::max(worst, std::fabs(exp_nonpositive(x) - expected) / expected);
  }
  CHECK(worst < 2.4e-7f);
  CHECK(exp_nonpositive(0) == 1.0f);
  CHECK(exp_nonpositive(-87.5f) == 0.0f);
  CHECK(exp_nonpositive(minus_inf) == 0.0f);
}

TEST_CASE("nothing left to choose and scores that are not numbers are errors") {
  const std::vector<int32_t> tokens = {0};
  GenerationConfig config;
  config.suppress_tokens = {0, 1, 2, 99};
  for (const bool sample : {false, true}) {
    config.do_sample = sample;
    std::vector<float> logits = {1, 2, 3};
    CHECK_THROWS_WITH_AS(Sampler(config, 3, 1).sample(logits, tokens),
                         "sampling: expected a token to choose from, got none: the settings exclude every one", Error);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> broken = {bad, bad, bad};
      GenerationConfig plain;
      plain.do_sample = sample;
      CHECK_THROWS_WITH_AS(Sampler(plain, 3, 1).sample(broken, tokens),
                           "sampling: expected numbers as scores, got NaN or infinity from the model", Error);
    }
  }
  config = {};
  config.bad_words_ids = {{1, 3}};
  CHECK_THROWS_WITH_AS(Sampler(config, 3, 1), "bad_words_ids: expected token ids below the vocabulary's 3, got 3", Error);
}

TEST_CASE("scores near the end of float's range, divided by a tiny temperature") {
  const std::vector<int32_t> tokens = {0};
  for (const char* warper : {"top_p", "typical_p", "min_p", "top_k", "epsilon_cutoff", "eta_cutoff"}) {
    CAPTURE(std::string(warper));
    for (const double temperature : {2e-30, 1e-3, 1.0}) {
      GenerationConfig config = sampling(1);
      config.temperature = temperature;
      config.set(warper, warper == std::string("top_k") ? "40" : "0.9");
      std::vector<float> logits(100);
      for (size_t i = 0; i < logits.size(); ++i) logits[i] = (i % 2 == 0 ? 3e38f : -3e38f) / static_cast<float>(1 + i / 50);
      const int32_t token = Sampler(config, 100, 1).sample(logits, tokens);
      CHECK(token % 2 == 0);
      CHECK(token < 100);
    }
  }
}

TEST_CASE("choosing among 150,000 tokens is quick") {
  const std::vector<float> base = large_logits(150000, 7);
  const std::vector<int32_t> tokens = {5, 9, 5, 9};
  for (const auto& [top_k, top_p] : std::initializer_list<std::pair<int, double>>{{50, 1.0}, {50, 0.9}, {0, 1.0}, {0, 0.9}}) {
    GenerationConfig config = sampling(1);
    config.temperature = 0.8;
    config.top_k = top_k;
    config.top_p = top_p;
    Sampler sampler(config, 150000, 1);
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> logits = base;
      const std::clock_t start = std::clock();  // processor time: other programs do not count
      sampler.sample(logits, tokens);
      best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    }
    MESSAGE("top_k ", top_k, ", top_p ", top_p, ": ", best * 1e6, " us");
    CHECK(best < 0.1 * test::slowness());  // below 1 ms on a quiet machine; sanitized programs run this too
  }
}
