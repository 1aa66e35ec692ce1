// One function a family: its forward pass as its paper and Transformers' modeling file have it. The defaults beside the keys are those of
// Transformers' configuration classes.
#include <stdexcept>
#include <utility>
#include <xtensor/xview.hpp>

#include "oracle.h"

namespace oracle {

namespace {

// --- parts that families share -----------------------------------------------------------------------------------------

Matrix embed(const Matrix& table, Ids ids) {
  Matrix x = Matrix::from_shape({ids.size(), table.shape(1)});
  for (size_t t = 0; t < ids.size(); ++t) xt::view(x, t, xt::all()) = xt::view(table, ids[t], xt::all());
  return x;
}

/// The output layer: lm_head, or the embedding itself when tied.
Matrix unembed(const Config& config, const Scope& model, const Matrix& x, bool tied_by_default = false) {
  const bool tied = config.flag("tie_word_embeddings", tied_by_default);
  return linear(x, model.matrix(tied ? "model.embed_tokens.weight" : "lm_head.weight"));
}

struct Heads {
  size_t n, n_kv, d;
};

/// num_key_value_heads missing: `n_kv_default`, or as many as heads if that is 0.
Heads heads_of(const Config& config, size_t n_kv_default, size_t d_default = 0) {
  const size_t n = config.size("num_attention_heads");
  const size_t n_kv = config.size("num_key_value_heads", n_kv_default != 0 ? n_kv_default : n);
  return {n, n_kv, config.size("head_dim", d_default != 0 ? d_default : config.size("hidden_size") / n)};
}

/// down(act(gate(x)) * up(x))
Matrix gated_mlp(const Config& config, const Scope& mlp, const Matrix& x) {
  const Matrix gate = activation(config.text("hidden_act", "silu"), mlp.linear("gate_proj", x));
  return mlp.linear("down_proj", gate * mlp.linear("up_proj", x));
}

/// Attention with rotary embedding as Llama has it; q and k are normalised over each head first where there are weights for it (Qwen3).
Matrix self_attention(const Scope& a, const Matrix& x, const Heads& heads, const Rope& rope, double eps,
                      const AttentionOptions& options) {
  Cube q = split_heads(a.linear("q_proj", x), heads.n);
  Cube k = split_heads(a.linear("k_proj", x), heads.n_kv);
  const Cube v = split_heads(a.linear("v_proj", x), heads.n_kv);
  if (a.has("q_norm.weight")) {
    q = per_head(q, [&](const Matrix& h) { return rms_norm(h, a.vector("q_norm.weight"), eps); });
    k = per_head(k, [&](const Matrix& h) { return rms_norm(h, a.vector("k_norm.weight"), eps); });
  }
  return a.linear("o_proj", attention(apply_rope(q, rope), apply_rope(k, rope), v, options));
}

/// The pre-norm block that Llama, Mistral, Qwen2 and Qwen3 have in common; `window_of(layer)`: 0 for full attention.
template <class WindowOf>
Matrix llama_like(const Config& config, const Scope& model, Ids ids, const Heads& heads, double eps, const WindowOf& window_of) {
  const Rope rope = make_rope(config, heads.d, ids.size());
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope layer = model / "model" / "layers" / i;
    const AttentionOptions options{.window = window_of(i)};
    x += self_attention(layer / "self_attn", rms_norm(x, layer.vector("input_layernorm.weight"), eps), heads, rope, eps, options);
    x += gated_mlp(config, layer / "mlp", rms_norm(x, layer.vector("post_attention_layernorm.weight"), eps));
  }
  return unembed(config, model, rms_norm(x, model.vector("model.norm.weight"), eps));
}

/// The window of Qwen's layers: layer_types, or the layers from max_window_layers on, and only with use_sliding_window.
size_t qwen_window(const Config& config, size_t layer) {
  if (!config.flag("use_sliding_window", false)) return 0;
  const size_t window = config.size("sliding_window", 4096);
  if (config.has("layer_types")) return config.json()["layer_types"][layer] == "sliding_attention" ? window : 0;
  return layer >= config.size("max_window_layers", 28) ? window : 0;
}

// --- the families --------------------------------------------------------------------------------------------------------

// Touvron et al., 2023. Biases exist with attention_bias and mlp_bias.
Matrix llama(const Config& config, const Scope& model, Ids ids) {
  return llama_like(config, model, ids, heads_of(config, 0), config.number("rms_norm_eps", 1e-6), [](size_t) { return size_t{0}; });
}

// Jiang et al., 2023: Llama with grouped heads and a sliding window. The key sliding_window: null means no window, its absence 4096.
Matrix mistral(const Config& config, const Scope& model, Ids ids) {
  const bool absent = !config.json().contains("sliding_window");
  const size_t window = absent ? 4096 : config.size("sliding_window", 0);
  return llama_like(config, model, ids, heads_of(config, 8), config.number("rms_norm_eps", 1e-6), [&](size_t) { return window; });
}

// Qwen team, 2024: Llama with biases on q, k and v.
Matrix qwen2(const Config& config, const Scope& model, Ids ids) {
  return llama_like(config, model, ids, heads_of(config, 32), config.number("rms_norm_eps", 1e-6),
                    [&](size_t layer) { return qwen_window(config, layer); });
}

// Qwen team, 2025: no biases, RMSNorm over each head of q and k before the rotation, head_dim of its own.
Matrix qwen3(const Config& config, const Scope& model, Ids ids) {
  return llama_like(config, model, ids, heads_of(config, 32, 128), config.number("rms_norm_eps", 1e-6),
                    [&](size_t layer) { return qwen_window(config, layer); });
}

}  // namespace

Oracle::Forward Oracle::find(const std::string& architecture) {
  static const std::pair<const char*, Forward> table[] = {
      {"LlamaForCausalLM", llama},
      {"MistralForCausalLM", mistral},
      {"Qwen2ForCausalLM", qwen2},
      {"Qwen3ForCausalLM", qwen3},
  };
  for (const auto& [name, forward] : table) {
    if (architecture == name) return forward;
  }
  throw std::runtime_error("oracle: unknown architecture " + architecture);
}

}  // namespace oracle
