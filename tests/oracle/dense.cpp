// Llama and its nearest relatives: pre-norm blocks with RMSNorm, rotary attention and a gated feed-forward.
// The defaults beside the keys are those of Transformers' configuration classes.
#include <xtensor/xmath.hpp>
#include <xtensor/xview.hpp>

#include "parts.h"

namespace oracle {

namespace {

// What these families choose within the common block.
struct Choices {
  size_t n_kv_default = 0;
  size_t d_default = 0;
  double eps_default = 1e-6;
  bool tied_by_default = false;
  std::function<size_t(size_t layer)> window{};  // 0 or empty: full attention
  std::function<bool(size_t layer)> rotate{};    // empty: every layer
  double embedding_scale = 1, residual_scale = 1, attention_scale = 0, logit_scale = 1;
};

// x += attention(norm(x)); x += mlp(norm(x)). Norms over the heads of q and k where there are weights for them (Qwen3).
Matrix llama_block_stack(const Config& config, const Scope& model, Ids ids, const Choices& choices) {
  const Heads heads = heads_of(config, choices.n_kv_default, choices.d_default);
  const double eps = config.number("rms_norm_eps", choices.eps_default);
  const std::string act = config.text("hidden_act", "silu");
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids) * choices.embedding_scale;
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn";
    SelfAttention how{heads, make_rope(config, heads.d, ids.size())};
    how.rotate = !choices.rotate || choices.rotate(i);
    how.options.window = choices.window ? choices.window(i) : 0;
    how.options.scale = choices.attention_scale;
    if (attn.has("q_norm.weight")) {
      how.q_norm = [&](const Cube& q) { return per_head(q, rms(attn, "q_norm", eps)); };
      how.k_norm = [&](const Cube& k) { return per_head(k, rms(attn, "k_norm", eps)); };
    }
    x += choices.residual_scale * self_attention(attn, rms(block, "input_layernorm", eps)(x), how);
    x += choices.residual_scale * gated_mlp(block / "mlp", rms(block, "post_attention_layernorm", eps)(x), act);
  }
  return unembed(config, model, rms(model, "model.norm", eps)(x), choices.tied_by_default) * choices.logit_scale;
}

// Touvron et al., 2023. Biases exist with attention_bias and mlp_bias.
Matrix llama(const Config& config, const Scope& model, Ids ids) { return llama_block_stack(config, model, ids, {}); }

// Jiang et al., 2023: Llama with grouped heads and a sliding window. The key sliding_window: null means no window, its absence 4096.
Matrix mistral(const Config& config, const Scope& model, Ids ids) {
  const size_t window = config.json().contains("sliding_window") ? config.size("sliding_window", 0) : 4096;
  return llama_block_stack(config, model, ids, {.n_kv_default = 8, .window = [=](size_t) { return window; }});
}

/// The window of Qwen's layers: layer_types, or the layers from max_window_layers on, and only with use_sliding_window.
std::function<size_t(size_t)> qwen_window(const Config& config) {
  return [&config](size_t i) -> size_t {
    const bool sliding = is_sliding(config, i, i >= config.size("max_window_layers", 28));
    return sliding && config.flag("use_sliding_window", false) ? config.size("sliding_window", 4096) : 0;
  };
}

// Qwen team, 2024: Llama with biases on q, k and v.
Matrix qwen2(const Config& config, const Scope& model, Ids ids) {
  return llama_block_stack(config, model, ids, {.n_kv_default = 32, .window = qwen_window(config)});
}

// Qwen team, 2025: no biases, RMSNorm over each head of q and k before the rotation, head_dim of its own.
Matrix qwen3(const Config& config, const Scope& model, Ids ids) {
  return llama_block_stack(config, model, ids, {.n_kv_default = 32, .d_default = 128, .window = qwen_window(config)});
}

// Hugging Face, 2025: Llama without position embedding in every fourth layer (no_rope_layers holds 1 where there is one).
Matrix smollm3(const Config& config, const Scope& model, Ids ids) {
  const auto rotate = [&](size_t i) {
    if (config.has("no_rope_layers")) return config.json()["no_rope_layers"].at(i).get<int>() != 0;
    return (i + 1) % config.size("no_rope_layer_interval", 4) != 0;
  };
  const auto window = [&](size_t i) -> size_t {
    const bool sliding = config.flag("use_sliding_window", false) && is_sliding(config, i, !rotate(i));
    return sliding ? config.size("sliding_window", 0) : 0;
  };
  return llama_block_stack(config, model, ids, {.n_kv_default = 4, .tied_by_default = true, .window = window, .rotate = rotate});
}

// IBM, 2024: Llama with four multipliers.
Matrix granite(const Config& config, const Scope& model, Ids ids) {
  return llama_block_stack(config, model, ids,
                           {.embedding_scale = config.number("embedding_multiplier", 1),
                            .residual_scale = config.number("residual_multiplier", 1),
                            .attention_scale = config.number("attention_multiplier", 1),
                            .logit_scale = 1 / config.number("logits_scaling", 1)});
}

// OLMo team, 2025: norms after attention and feed-forward instead of before, and over the whole projected q and k.
Matrix olmo2(const Config& config, const Scope& model, Ids ids) {
  const Heads heads = heads_of(config);
  const double eps = config.number("rms_norm_eps", 1e-5);
  const SelfAttention how{heads, make_rope(config, heads.d, ids.size())};
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn";
    const Matrix q = rms(attn, "q_norm", eps)(attn.linear("q_proj", x)), k = rms(attn, "k_norm", eps)(attn.linear("k_proj", x));
    const Matrix attended = attn.linear("o_proj", attend(how, q, k, attn.linear("v_proj", x)));
    x += rms(block, "post_attention_layernorm", eps)(attended);
    x += rms(block, "post_feedforward_layernorm", eps)(gated_mlp(block / "mlp", x, config.text("hidden_act", "silu")));
  }
  return unembed(config, model, rms(model, "model.norm", eps)(x));
}

// Microsoft, 2024: q, k and v in one matrix (in this order), gate and up in one; a part of each head rotates.
Matrix phi3(const Config& config, const Scope& model, Ids ids) {
  const Heads heads = heads_of(config);
  const double eps = config.number("rms_norm_eps", 1e-5);
  const size_t n_rot = static_cast<size_t>(static_cast<double>(heads.d) * partial_rotary_factor(config, 1));
  SelfAttention how{heads, make_rope(config, n_rot, ids.size())};
  how.options.window = config.size("sliding_window", 0);
  const size_t n_q = heads.n * heads.d, n_k = heads.n_kv * heads.d, d_ff = config.size("intermediate_size");
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn", mlp = block / "mlp";
    const Matrix qkv = attn.linear("qkv_proj", rms(block, "input_layernorm", eps)(x));
    const Matrix q = xt::view(qkv, xt::all(), xt::range(0, n_q));
    const Matrix k = xt::view(qkv, xt::all(), xt::range(n_q, n_q + n_k));
    const Matrix v = xt::view(qkv, xt::all(), xt::range(n_q + n_k, n_q + 2 * n_k));
    x += attn.linear("o_proj", attend(how, q, k, v));
    const Matrix gate_up = mlp.linear("gate_up_proj", rms(block, "post_attention_layernorm", eps)(x));
    const Matrix gate = xt::view(gate_up, xt::all(), xt::range(0, d_ff));
    const Matrix up = xt::view(gate_up, xt::all(), xt::range(d_ff, 2 * d_ff));
    x += mlp.linear("down_proj", up * activation(config.text("hidden_act", "silu"), gate));
  }
  return unembed(config, model, rms(model, "model.norm", eps)(x));
}

}  // namespace

std::span<const Family> dense_families() {
  static constexpr Family table[] = {
      {"LlamaForCausalLM", llama},     {"MistralForCausalLM", mistral}, {"Qwen2ForCausalLM", qwen2},
      {"Qwen3ForCausalLM", qwen3},     {"SmolLM3ForCausalLM", smollm3}, {"GraniteForCausalLM", granite},
      {"Olmo2ForCausalLM", olmo2},     {"Phi3ForCausalLM", phi3},
  };
  return table;
}

}  // namespace oracle
