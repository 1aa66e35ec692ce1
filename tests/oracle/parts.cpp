#include "parts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <xtensor/xsort.hpp>
#include <xtensor/xview.hpp>

namespace oracle {

Matrix embed(const Matrix& table, Ids ids) {
  Matrix x = Matrix::from_shape({ids.size(), table.shape(1)});
  for (size_t t = 0; t < ids.size(); ++t) xt::view(x, t, xt::all()) = xt::view(table, ids[t], xt::all());
  return x;
}

Matrix unembed(const Config& config, const Scope& model, const Matrix& x, bool tied_by_default) {
  const bool tied = config.flag("tie_word_embeddings", tied_by_default);
  return linear(x, model.matrix(tied ? "model.embed_tokens.weight" : "lm_head.weight"));
}

Norm rms(const Scope& scope, const std::string& name, double eps, double offset) {
  const Vector weight = scope.vector(name + ".weight") + offset;
  return [=](const Matrix& x) { return rms_norm(x, weight, eps); };
}

Norm layer(const Scope& scope, const std::string& name, double eps) {
  const Vector weight = scope.vector(name + ".weight"), bias = scope.vector_or_empty(name + ".bias");
  return [=](const Matrix& x) { return layer_norm(x, weight, bias, eps); };
}

Heads heads_of(const Config& config, size_t n_kv_default, size_t d_default) {
  const size_t n = config.size("num_attention_heads");
  const size_t n_kv = config.size("num_key_value_heads", n_kv_default != 0 ? n_kv_default : n);
  return {n, n_kv, config.size("head_dim", d_default != 0 ? d_default : config.size("hidden_size") / n)};
}

Matrix attend(const SelfAttention& how, const Matrix& q, const Matrix& k, const Matrix& v) {
  Cube qh = split_heads(q, how.heads.n), kh = split_heads(k, how.heads.n_kv);
  if (how.q_norm) qh = how.q_norm(qh);
  if (how.k_norm) kh = how.k_norm(kh);
  if (how.rotate) {
    qh = apply_rope(qh, how.rope, how.interleaved);
    kh = apply_rope(kh, how.rope, how.interleaved);
  }
  if (how.q_last) qh = how.q_last(qh);
  if (how.k_last) kh = how.k_last(kh);
  return attention(qh, kh, split_heads(v, how.heads.n_kv), how.options);
}

Matrix self_attention(const Scope& scope, const Matrix& x, const SelfAttention& how) {
  const Matrix q = scope.linear("q_proj", x), k = scope.linear("k_proj", x), v = scope.linear("v_proj", x);
  return scope.linear("o_proj", attend(how, q, k, v));
}

Matrix gated_mlp(const Scope& scope, const Matrix& x, const std::string& act) {
  const Matrix gate = activation(act, scope.linear("gate_proj", x));
  return scope.linear("down_proj", gate * scope.linear("up_proj", x));
}

std::vector<size_t> top(const Vector& values, size_t k) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values(a) > values(b); });
  order.resize(k);
  return order;
}

Routing softmax_then_top(const Vector& logits, size_t k, bool normalize) {
  const Matrix one_row = xt::view(logits, xt::newaxis(), xt::all());
  const Vector probabilities = xt::view(softmax(one_row), 0, xt::all());
  Routing routing;
  double sum = 0;
  for (const size_t e : top(probabilities, k)) {
    routing.emplace_back(e, probabilities(e));
    sum += probabilities(e);
  }
  for (auto& [expert, weight] : routing) weight /= normalize ? sum : 1.0;
  return routing;
}

Routing top_then_softmax(const Vector& logits, size_t k) {
  const std::vector<size_t> chosen = top(logits, k);
  Routing routing;
  double sum = 0;
  for (const size_t e : chosen) sum += std::exp(logits(e) - logits(chosen[0]));
  for (const size_t e : chosen) routing.emplace_back(e, std::exp(logits(e) - logits(chosen[0])) / sum);
  return routing;
}

Matrix mixture(const Matrix& x, const Matrix& logits, const std::function<Routing(const Vector&)>& route,
               const std::function<Matrix(size_t, const Matrix&)>& expert) {
  // Every expert is computed for every token: simple, and these models are small.
  std::vector<Matrix> outputs;
  for (size_t e = 0; e < logits.shape(1); ++e) outputs.push_back(expert(e, x));
  Matrix y = xt::zeros<double>(x.shape());
  for (size_t t = 0; t < x.shape(0); ++t) {
    const Vector row = xt::view(logits, t, xt::all());
    for (const auto& [e, weight] : route(row)) xt::view(y, t, xt::all()) += weight * xt::view(outputs[e], t, xt::all());
  }
  return y;
}

bool is_sliding(const Config& config, size_t layer, bool otherwise) {
  return config.has("layer_types") ? config.json()["layer_types"].at(layer) == "sliding_attention" : otherwise;
}

}  // namespace oracle
