// From logits to a token: Transformers' logits processors and warpers in Transformers' order, then argmax or a seeded draw.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/generation_config.h"

namespace engine {

/// The choice of tokens for one sequence. Holds the random state; the result depends only on the seed, the logits and the tokens so far.
/// Probabilities and draws use IEEE additions and multiplications only, so that they have the same bits on every machine.
class Sampler {
 public:
  /// `n_prompt`: tokens of the prompt (min_new_tokens counts from there). `stream` makes the draws of several answers to one request differ.
  /// Throws Error if bad_words_ids names a token beyond the vocabulary, as Transformers does.
  Sampler(const GenerationConfig& config, int32_t vocab_size, int64_t n_prompt, uint64_t stream = 0);
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  /// Picks the next token: the first largest score when greedy (do_sample false, or temperature 0), else a draw over the float64 cumulative
  /// sums of exp(score - maximum) in id order. `tokens`: prompt and answer so far. `logits` [vocab_size] is changed in place.
  /// Throws Error if no token is left to choose or the model's scores are not numbers.
  int32_t sample(std::span<float> logits, std::span<const int32_t> tokens);

  /// The coming draws are those that `other` would make now. For guesses at what it will choose.
  void align(const Sampler& other);

  /// The processors and warpers alone: scores as Transformers would hand them to softmax (-inf: excluded). For tests and logprobs.
  void process(std::span<float> logits, std::span<const int32_t> tokens) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// e^x in float for x <= 0 within 2 units in the last place, 0 below -87, without the C library, whose last bit varies with the CPU.
float exp_nonpositive(float x);

}  // namespace engine
