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
void Decoder::Impl::route(int64_t token) {
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
  if (moe.router == RouterKind::topk_sigmoid) {
    for (int i = 0; i < moe.n_used; ++i) weight[i] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(weight[i]))));
    return;
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

/// The tokens' rows, a copy for each choice, sorted by expert; each as its expert's matrices read it.
void Decoder::Impl::gather_rows(Worker& w, const LayerWeights& weights) {
  const int n_used = spec.moe.n_used;
  const ActRows& in = block_input(w);
  w.for_chunks(n_tokens() * n_used, 8, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t row = expert_row[pair], token = pair / n_used;
      if (spec.moe.scale_input) {
        std::memcpy(expert_in.row(row), in.row(token), sizeof(float) * static_cast<size_t>(spec.d_model));
        kernel.scale(expert_in.row(row), chosen_weight[pair], spec.d_model);
        quantize(expert_in, row, 1, 0, spec.d_model);
        continue;
      }
      const ExpertWeights& expert = weights.experts[chosen[pair]];
      const bool floats = !kernels::has_int8_activations(expert.gate.w.format) || !kernels::has_int8_activations(expert.up.w.format);
      if (floats || partial != nullptr) std::memcpy(expert_in.row(row), in.row(token), sizeof(float) * static_cast<size_t>(spec.d_model));
      if (in.q != nullptr) std::memcpy(expert_in.q_row(row), in.q_row(token), static_cast<size_t>(in.q_stride));
    }
  });
}

/// Columns [begin, end) of what one token adds to the residual stream: the chosen experts' outputs in order of choice, after the shared
/// expert's, which stands in `sum`. `out`: the experts' rows, all [.., end - begin] with `stride`.
void Decoder::Impl::combine(int64_t token, int64_t begin, int64_t end, const float* out, int64_t stride, float* sum) {
  const MoeSpec& moe = spec.moe;
  const int64_t width = end - begin;
  if (moe.d_shared == 0) std::fill_n(sum, width, 0.0f);
  else if (moe.shared_gate) kernel.scale(sum, 1.0f / (1.0f + std::exp(-shared_scale[token])), width);
  for (int i = 0; i < moe.n_used; ++i) {
    const int64_t pair = token * moe.n_used + i;
    kernel.add_scaled(out + int64_t{expert_row[pair]} * stride, moe.scale_input ? 1 : chosen_weight[pair], sum, width);
  }
  const int64_t at = token * spec.d_model + begin;
  if (spec.post_norm) std::memcpy(branch + at, sum, sizeof(float) * static_cast<size_t>(width));
  else kernel.add_scaled(sum, spec.residual_scale, x + at, width);
}

void Decoder::Impl::experts(Worker& w, int layer) {
  const LayerWeights& weights = layer_weights(layer);
  const MoeSpec& moe = spec.moe;
  const int64_t n = n_tokens(), d = spec.d_model, n_pairs = n * moe.n_used;
  const bool few = n < few_tokens;
  const ActRows& in = block_input(w);

  const LinearTask tasks[] = {{&weights.w_router, &in, router, moe.n_experts}, {&weights.shared_gate, &in, shared_scale, 1}};
  linears(w, std::span(tasks, weights.shared_gate ? 2 : 1), n, [](int64_t, int64_t) {});
  if (!few) w.for_chunks(n, 4, [&](int64_t begin, int64_t end) { for (int64_t t = begin; t < end; ++t) route(t); });
  if (w.index() == 0) {
    for (int64_t t = 0; few && t < n; ++t) route(t);
    group_by_expert();
  }
  w.barrier();
  // A lone token's row serves all its experts, unless each has it scaled.
  const bool gathered = n > 1 || moe.scale_input || partial != nullptr;
  if (gathered) gather_rows(w, weights);

  const auto observe_experts = [&](Linear ExpertWeights::*which, const ActRows& rows) {
    if (partial == nullptr) return;
    for (const int32_t e : busy_experts) observe(w, weights.experts[e].*which, rows.row(expert_start[e]), expert_start[e + 1] - expert_start[e]);
  };
  observe_experts(&ExpertWeights::up, expert_in);
  if (moe.d_shared > 0) observe(w, weights.shared.up, h.f, n);

  // All experts' inner columns as one row of work: the shared expert's first, since with many tokens they take longest.
  const int64_t n_shared = padded_rows(moe.d_shared), n_each = padded_rows(moe.d_expert), n_busy = static_cast<int64_t>(busy_experts.size());
  const ActRows shared_inner = gate_of_width(moe.d_shared);
  for_row_chunks(w, n_shared + n_busy * n_each, n, [&](int64_t begin, int64_t end) {
    for (int64_t to; begin < end; begin = to) {
      if (begin < n_shared) {
        to = std::min(end, n_shared);
        const ExpertWeights& e = weights.shared;
        gated_rows(e.gate, e.up, e.down, begin, std::min<int64_t>(to, moe.d_shared), in, n, shared_inner, w.index());
        continue;
      }
      const int64_t i = (begin - n_shared) / n_each, first = n_shared + i * n_each;
      to = std::min(end, first + n_each);
      const int32_t id = busy_experts[i], start = expert_start[id];
      const ExpertWeights& e = weights.experts[id];
      gated_rows(e.gate, e.up, e.down, begin - first, std::min<int64_t>(to - first, moe.d_expert), gathered ? expert_in.from(start) : in,
                 expert_start[id + 1] - start, expert_gate.from(start), w.index());
    }
  });
  observe_experts(&ExpertWeights::down, expert_gate);
  if (moe.d_shared > 0) observe(w, weights.shared.down, shared_inner.f, n);

  // The outputs by columns, all experts' of a chunk of columns by one thread, which then adds them up.
  for_row_chunks(w, d, n, [&](int64_t begin, int64_t end) {
    const int64_t stride = few ? d : end - begin;
    float* out = few ? expert_out + begin : chunk_space(w.index());  // the pairs' rows, then the tokens' sums
    float* sums = out + n_pairs * stride;
    for (const int32_t e : busy_experts) {
      const int64_t start = expert_start[e];
      matmul(weights.experts[e].down, begin, end, expert_gate, start, expert_start[e + 1] - start, out + start * stride - begin, stride, w.index());
    }
    if (moe.d_shared > 0) matmul(weights.shared.down, begin, end, shared_inner, 0, n, sums - begin, stride, w.index());
    for (int64_t t = 0; t < n; ++t) combine(t, begin, end, out, stride, sums + t * stride);
  });
}

}  // namespace engine
