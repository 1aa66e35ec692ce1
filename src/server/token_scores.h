// What OpenAI's interface does to and reads from the scores of a token: penalties, biases, log probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "server/answer.h"

namespace engine::server {

/// Of one answer. Log probabilities are the model's own, before penalties, temperature and filters.
class TokenScores {
 public:
  /// `work` outlives it.
  explicit TokenScores(const Work& work) : work_(work) {}

  bool needed() const;
  /// Looks at the scores of the next token and then applies penalties and biases. `answer`: the tokens so far; it grows by one a call.
  void see(std::span<float> logits, std::span<const int32_t> answer);
  /// The record of the token chosen from the scores seen last; work.n_logprobs >= 0.
  TokenRecord record(int32_t token) const;

 private:
  void note_probabilities(std::span<const float> logits);

  const Work& work_;
  std::unordered_map<int32_t, int> counts_;  // of the answer's tokens
  size_t n_counted_ = 0;
  std::vector<float> logits_;                // as seen, with n_logprobs >= 0
  double log_total_ = 0;
  std::vector<TokenScore> top_;
};

}  // namespace engine::server
