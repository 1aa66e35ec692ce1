#include "server/token_scores.h"

#include <algorithm>
#include <cmath>

namespace engine::server {

bool TokenScores::needed() const {
  return work_.n_logprobs >= 0 || work_.presence_penalty != 0 || work_.frequency_penalty != 0 || !work_.logit_bias.empty();
}

void TokenScores::see(std::span<float> logits, std::span<const int32_t> answer) {
  if (work_.n_logprobs >= 0) note_probabilities(logits);
  for (; n_counted_ < answer.size(); ++n_counted_) ++counts_[answer[n_counted_]];
  if (work_.presence_penalty != 0 || work_.frequency_penalty != 0) {
    for (const auto& [id, n] : counts_) {
      logits[static_cast<size_t>(id)] -= static_cast<float>(work_.presence_penalty + work_.frequency_penalty * n);
    }
  }
  for (const auto& [id, bias] : work_.logit_bias) logits[static_cast<size_t>(id)] += bias;
}

void TokenScores::note_probabilities(std::span<const float> logits) {
  logits_.assign(logits.begin(), logits.end());
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float x : logits) total += std::exp(static_cast<double>(x) - top);
  log_total_ = top + std::log(total);

  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const size_t n = std::min(static_cast<size_t>(work_.n_logprobs), ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  top_.clear();
  for (size_t i = 0; i < n; ++i) {
    top_.push_back({ids[i], static_cast<float>(logits[static_cast<size_t>(ids[i])] - log_total_)});
  }
}

TokenRecord TokenScores::record(int32_t token) const {
  return {{token, static_cast<float>(logits_[static_cast<size_t>(token)] - log_total_)}, top_};
}

}  // namespace engine::server
