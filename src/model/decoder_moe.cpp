// Mixture of experts: tokens are sorted by expert, so that each expert's weights are read once for all its tokens, and only those of
// experts that somebody chose.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "model/decoder_impl.h"

namespace engine {

/// Picks the experts of one token from its router logits.
void Decoder::Impl::route(const LayerWeights&, int64_t token) {
  const MoeSpec& moe = spec.moe;
  const float* scores = router + token * moe.n_experts;
  int32_t* experts = chosen.data() + token * moe.n_used;
  float* weight = chosen_weight.data() + token * moe.n_used;
  // Selection by repeated maximum: the first of equals wins, as in torch.topk on distinct values; n_used is small.
  for (int i = 0; i < moe.n_used; ++i) {
    int best = -1;
    for (int e = 0; e < moe.n_experts; ++e) {
      if (std::find(experts, experts + i, e) != experts + i) continue;
      if (best < 0 || scores[e] > scores[best]) best = e;
    }
    experts[i] = best;
    weight[i] = scores[best];
  }
  const float top = weight[0];
  double sum = 0;
  if (moe.router == RouterKind::softmax_topk && !moe.normalize_topk) {
    for (int e = 0; e < moe.n_experts; ++e) sum += std::exp(static_cast<double>(scores[e]) - top);
  } else {
    // Softmax over the chosen: also what softmax over all, renormalised over the chosen, comes to.
    for (int i = 0; i < moe.n_used; ++i) sum += std::exp(static_cast<double>(weight[i]) - top);
  }
  for (int i = 0; i < moe.n_used; ++i) {
    weight[i] = static_cast<float>(std::exp(static_cast<double>(weight[i]) - top) / sum);
  }
}

/// Counting sort of the (token, choice) pairs by expert.
void Decoder::Impl::group_by_expert() {
  const MoeSpec& moe = spec.moe;
  const int64_t pairs = n_tokens() * moe.n_used;
  std::fill(expert_start.begin(), expert_start.end(), 0);
  for (int64_t i = 0; i < pairs; ++i) ++expert_start[chosen[i] + 1];
  busy_experts.clear();
  for (int e = 0; e < moe.n_experts; ++e) {
    if (expert_start[e + 1] > 0) busy_experts.push_back(e);
    expert_start[e + 1] += expert_start[e];
  }
  // expert_start[e] serves as the next free row of e, and is put back afterwards.
  for (int64_t i = 0; i < pairs; ++i) expert_row[i] = expert_start[chosen[i]]++;
  for (int e = moe.n_experts; e > 0; --e) expert_start[e] = expert_start[e - 1];
  expert_start[0] = 0;
}

/// branch = sum of the chosen experts' outputs in order of choice, plus the shared expert's.
void Decoder::Impl::combine(const LayerWeights& weights, int64_t token) {
  const MoeSpec& moe = spec.moe;
  const int64_t d = spec.d_model;
  float* out = branch + token * d;
  if (moe.d_shared > 0) {
    if (weights.shared_gate) kernel.scale(out, 1.0f / (1.0f + std::exp(-shared_scale[token])), d);
  } else {
    std::fill_n(out, d, 0.0f);
  }
  for (int i = 0; i < moe.n_used; ++i) {
    const int64_t pair = token * moe.n_used + i;
    kernel.add_scaled(expert_out + int64_t{expert_row[pair]} * d, chosen_weight[pair], out, d);
  }
}

void Decoder::Impl::experts(Worker& w, int layer) {
  const LayerWeights& weights = layer_weights(layer);
  const MoeSpec& moe = spec.moe;
  const int64_t n = n_tokens(), d = spec.d_model, width = moe.d_expert;

  const LinearTask tasks[] = {{&weights.w_router, &h, router, moe.n_experts}, {&weights.shared_gate, &h, shared_scale, 1}};
  linears(w, std::span(tasks, weights.shared_gate ? 2 : 1), n, [](int64_t, int64_t) {});
  w.for_chunks(n, 1, [&](int64_t t, int64_t) { route(weights, t); });
  if (w.index() == 0) group_by_expert();
  w.barrier();
  w.for_chunks(n * moe.n_used, 8, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t row = expert_row[pair], token = pair / moe.n_used;
      std::memcpy(expert_in.row(row), h.row(token), sizeof(float) * static_cast<size_t>(d));
      if (h.q != nullptr) std::memcpy(expert_in.q_row(row), h.q_row(token), static_cast<size_t>(h.q_stride));
    }
  });

  const auto observe_experts = [&](Linear ExpertWeights::*which, const ActRows& rows) {
    if (partial == nullptr) return;
    for (const int32_t e : busy_experts) observe(w, weights.experts[e].*which, rows.row(expert_start[e]), expert_start[e + 1] - expert_start[e]);
  };
  observe_experts(&ExpertWeights::up, expert_in);
  const int64_t n_busy = static_cast<int64_t>(busy_experts.size());
  const int64_t inner_grain = row_grain(width * n_busy), inner_chunks = (width + inner_grain - 1) / inner_grain;
  w.for_chunks(n_busy * inner_chunks, 1, [&](int64_t i, int64_t) {
    const int e = busy_experts[i / inner_chunks];
    const int64_t begin = i % inner_chunks * inner_grain, end = std::min(width, begin + inner_grain);
    const int64_t first = expert_start[e], rows = expert_start[e + 1] - first;
    const ExpertWeights& expert = weights.experts[e];
    gated_rows(expert.gate, expert.up, expert.down, begin, end, expert_in, first, rows, expert_gate, w.index());
  });
  observe_experts(&ExpertWeights::down, expert_gate);
  const int64_t outer_grain = row_grain(d * n_busy), outer_chunks = (d + outer_grain - 1) / outer_grain;
  w.for_chunks(n_busy * outer_chunks, 1, [&](int64_t i, int64_t) {
    const int e = busy_experts[i / outer_chunks];
    const int64_t begin = i % outer_chunks * outer_grain, end = std::min(d, begin + outer_grain);
    const int64_t first = expert_start[e], rows = expert_start[e + 1] - first;
    matmul(weights.experts[e].down, begin, end, expert_gate, first, rows, expert_out + first * d, d, w.index());
  });
  if (moe.d_shared > 0) {
    observe(w, weights.shared.up, h.f, n);
    const ActRows inner = gated_product(w, weights.shared.gate, weights.shared.up, weights.shared.down);
    observe(w, weights.shared.down, inner.f, n);
    const LinearTask down[] = {{&weights.shared.down, &inner, branch, d}};
    linears(w, down, n, [](int64_t, int64_t) {});
  }
  w.for_chunks(n, 1, [&](int64_t t, int64_t) { combine(weights, t); });
}

}  // namespace engine
