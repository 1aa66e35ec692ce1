// What the tests of whole models share: a model with all that is needed to run it, goldens, and comparisons.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "model/decoder.h"

namespace engine::test {

using Ids = std::vector<int32_t>;

/// A model, a decoder and a pool of KV blocks, used by one test at a time.
struct Rig {
  Rig(std::shared_ptr<const Model> model_, int n_threads, int max_tokens = 1024)
      : model(std::move(model_)),
        team(n_threads),
        pool(KvLayout::of(model->spec(), kernels::KvFormat::f32), 512),
        decoder(model, team, max_tokens, max_tokens) {
    decoder.set_min_shared_work(0);  // tiny models, all threads
  }

  int vocab_size() const { return model->spec().vocab_size; }

  /// Feeds `ids` to `kv` in chunks and appends the logits of every position to `out`.
  void feed(KvSequence& kv, std::span<const int32_t> ids, size_t chunk, std::vector<float>& out) {
    const int64_t end = kv.size() + static_cast<int64_t>(ids.size());
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
      const BatchItem item{&kv, ids.subspan(begin, std::min(chunk, ids.size() - begin)), LogitsWanted::all, end};
      REQUIRE(kv.reserve(kv.size() + static_cast<int64_t>(item.tokens.size())));
      decoder.forward({&item, 1});
      REQUIRE(decoder.n_logit_rows() == static_cast<int>(item.tokens.size()));
      for (int row = 0; row < decoder.n_logit_rows(); ++row) {
        const auto logits = decoder.logits(row);
        out.insert(out.end(), logits.begin(), logits.end());
      }
    }
  }

  /// Logits of all positions [T * vocab_size] of a sequence of its own.
  std::vector<float> logits(std::span<const int32_t> ids, size_t chunk = SIZE_MAX) {
    KvSequence kv(pool);
    std::vector<float> out;
    feed(kv, ids, std::min(chunk, ids.size()), out);
    return out;
  }

  /// The greedy continuation of `prompt`, one token a step.
  Ids greedy(std::span<const int32_t> prompt, int n) {
    KvSequence kv(pool);
    Ids next(prompt.begin(), prompt.end()), out;
    const int64_t end = static_cast<int64_t>(prompt.size());
    while (static_cast<int>(out.size()) < n) {
      REQUIRE(kv.reserve(kv.size() + static_cast<int64_t>(next.size())));
      const BatchItem item{&kv, next, LogitsWanted::last, end};
      decoder.forward({&item, 1});
      const auto logits = decoder.logits(0);
      next = {static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
      out.push_back(next[0]);
    }
    return out;
  }

  std::shared_ptr<const Model> model;
  Team team;
  KvPool pool;
  Decoder decoder;
};

/// reference.safetensors of a directory of goldens.
struct Reference {
  explicit Reference(const std::string& directory) : file(directory + "/reference.safetensors") {
    const TensorView& shape = file.tensors().at("logits");
    n_prompts = static_cast<size_t>(shape.dim(0));
    n_tokens = static_cast<size_t>(shape.dim(1));
    vocab_size = static_cast<size_t>(shape.dim(2));
    logits.resize(static_cast<size_t>(shape.n_elements()));
    REQUIRE(to_float(shape, logits.data()));
    for (size_t i = 0; i < n_prompts; ++i) {
      prompts.push_back(row("input_ids", i));
      greedy.push_back(row("greedy_ids", i));
    }
  }
  std::span<const float> of_prompt(size_t i) const {
    return std::span(logits).subspan(i * n_tokens * vocab_size, n_tokens * vocab_size);
  }

  SafetensorsFile file;
  size_t n_prompts, n_tokens, vocab_size;
  std::vector<Ids> prompts, greedy;
  std::vector<float> logits;

 private:
  Ids row(const std::string& name, size_t i) const {
    const TensorView& t = file.tensors().at(name);
    const auto* data = reinterpret_cast<const int64_t*>(t.data) + i * static_cast<size_t>(t.dim(1));
    return Ids(data, data + t.dim(1));
  }
};

template <class T>
double standard_deviation(const T& values) {
  double sum = 0, squares = 0;
  for (const double v : values) sum += v, squares += v * v;
  const double n = static_cast<double>(values.size());
  return std::sqrt(squares / n - sum / n * (sum / n));
}

/// Largest absolute difference over the expected values' standard deviation; infinity if sizes differ or a value is not finite.
template <class A, class B>
double relative_difference(const A& got, const B& expected) {
  if (got.size() != expected.size()) return INFINITY;
  double largest = 0;
  auto e = expected.begin();
  for (const double g : got) {
    const double difference = std::abs(g - static_cast<double>(*e++));
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) return INFINITY;
  }
  return largest / standard_deviation(expected);
}

}  // namespace engine::test
