// What families have in common: larger pieces than blocks.h, still formulas.
#pragma once

#include <functional>
#include <string>

#include "oracle.h"

namespace oracle {

using Norm = std::function<Matrix(const Matrix&)>;

/// Rows of the embedding table.
Matrix embed(const Matrix& table, Ids ids);
/// The output layer: lm_head, or the embedding itself when tied.
Matrix unembed(const Config& config, const Scope& model, const Matrix& x, bool tied_by_default = false);

/// RMSNorm with NAME.weight (plus `offset`: Gemma stores w - 1).
Norm rms(const Scope& scope, const std::string& name, double eps, double offset = 0);
/// LayerNorm with NAME.weight and, where there is one, NAME.bias.
Norm layer(const Scope& scope, const std::string& name, double eps);

struct Heads {
  size_t n, n_kv, d;
};
/// num_key_value_heads missing: `n_kv_default`, or as many as heads if that is 0; head_dim missing: hidden_size / heads or `d_default`.
Heads heads_of(const Config& config, size_t n_kv_default = 0, size_t d_default = 0);

/// How a layer's attention differs from plain Llama's.
struct SelfAttention {
  Heads heads;
  Rope rope;
  bool rotate = true;        // false: no position embedding in this layer
  bool interleaved = false;  // rotary pairs (2i, 2i + 1)
  AttentionOptions options{};
  std::function<Cube(const Cube&)> q_norm{}, k_norm{};  // on the heads, before the rotation; empty: none
  std::function<Cube(const Cube&)> q_last{}, k_last{};  // the same after the rotation
};

/// Attention over projected q [T, n * d], k and v [T, n_kv * d], up to the output projection.
Matrix attend(const SelfAttention& how, const Matrix& q, const Matrix& k, const Matrix& v);
/// The whole sub-layer with q_proj, k_proj, v_proj and o_proj.
Matrix self_attention(const Scope& scope, const Matrix& x, const SelfAttention& how);

/// down(act(gate(x)) * up(x)) with gate_proj, up_proj and down_proj.
Matrix gated_mlp(const Scope& scope, const Matrix& x, const std::string& act);

/// Indices of the k largest, largest first.
std::vector<size_t> top(const Vector& values, size_t k);

/// How a router weighs experts for one token: pairs (expert, weight).
using Routing = std::vector<std::pair<size_t, double>>;
/// The k largest of softmax over all, divided by their sum if `normalize` (Mixtral, Qwen-MoE).
Routing softmax_then_top(const Vector& logits, size_t k, bool normalize);
/// softmax over the k largest logits alone (GPT-OSS, Granite).
Routing top_then_softmax(const Vector& logits, size_t k);

/// sum over the routed experts of weight * expert(x): logits [T, n_experts], expert(index, rows [n, d]) -> [n, d].
Matrix mixture(const Matrix& x, const Matrix& logits, const std::function<Routing(const Vector&)>& route,
               const std::function<Matrix(size_t, const Matrix&)>& expert);

/// Element [layer] of the list layer_types is "sliding_attention"; without the list: `otherwise`.
bool is_sliding(const Config& config, size_t layer, bool otherwise);

using Forward = Matrix (*)(const Config&, const Scope&, Ids);
struct Family {
  const char* architecture;
  Forward forward;
};
std::span<const Family> dense_families();
std::span<const Family> expert_families();
std::span<const Family> gemma_and_other_families();

}  // namespace oracle
