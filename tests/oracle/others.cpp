// Gemma, and families with LayerNorm.
#include <cmath>
#include <xtensor/xmath.hpp>
#include <xtensor/xview.hpp>

#include "parts.h"

namespace oracle {

namespace {

/// Gemma 2 and 3: norms with 1 + w around attention and feed-forward, embeddings times sqrt(d_model), scores scaled by
/// query_pre_attn_scalar; `sliding` and `rope` by layer.
Matrix gemma(const Config& config, const Scope& model, Ids ids, double attention_softcap, double logit_softcap,
             const std::function<bool(size_t)>& sliding, const std::function<Rope(size_t)>& rope) {
  const Heads heads = heads_of(config, 4, 256);
  const double eps = config.number("rms_norm_eps", 1e-6);
  const auto norm = [&](const Scope& scope, const std::string& name) { return rms(scope, name, eps, 1); };
  const std::string act = config.text("hidden_activation", config.text("hidden_act", "gelu_pytorch_tanh"));
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids) * std::sqrt(static_cast<double>(config.size("hidden_size")));
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn";
    SelfAttention how{heads, rope(i)};
    how.options.scale = 1 / std::sqrt(config.number("query_pre_attn_scalar", 256));
    how.options.softcap = attention_softcap;
    how.options.window = sliding(i) ? config.size("sliding_window", 4096) : 0;
    if (attn.has("q_norm.weight")) {  // Gemma 3
      how.q_norm = [&](const Cube& q) { return per_head(q, norm(attn, "q_norm")); };
      how.k_norm = [&](const Cube& k) { return per_head(k, norm(attn, "k_norm")); };
    }
    const Matrix attended = self_attention(attn, norm(block, "input_layernorm")(x), how);
    x += norm(block, "post_attention_layernorm")(attended);
    const Matrix fed = gated_mlp(block / "mlp", norm(block, "pre_feedforward_layernorm")(x), act);
    x += norm(block, "post_feedforward_layernorm")(fed);
  }
  Matrix logits = unembed(config, model, norm(model, "model.norm")(x), true);
  if (logit_softcap != 0) logits = logit_softcap * xt::tanh(logits / logit_softcap);
  return logits;
}

/// A soft cap: the key's value; null means none, its absence `otherwise`.
double softcap(const Config& config, const std::string& key, double otherwise) {
  return config.json().contains(key) ? config.number(key, 0) : otherwise;
}

// Gemma team, 2024: soft caps on scores and logits; every other layer slides, beginning with the first.
Matrix gemma2(const Config& config, const Scope& model, Ids ids) {
  const Rope rope = make_rope(config, heads_of(config, 4, 256).d, ids.size());
  return gemma(config, model, ids, softcap(config, "attn_logit_softcapping", 50), softcap(config, "final_logit_softcapping", 30),
               [&](size_t i) { return is_sliding(config, i, i % 2 == 0); }, [&](size_t) { return rope; });
}

// Gemma team, 2025: five sliding layers for each full one; they rotate with a theta of their own and without scaling.
Matrix gemma3(const Config& config, const Scope& model, Ids ids) {
  const size_t d = heads_of(config, 4, 256).d;
  const auto sliding = [&](size_t i) { return is_sliding(config, i, (i + 1) % config.size("sliding_window_pattern", 6) != 0); };
  const auto rope = [&](size_t i) {
    const engine::Json none = engine::Json::object();
    if (config.has("rope_parameters")) {
      const Config both(config.json()["rope_parameters"]);
      const char* key = sliding(i) ? "sliding_attention" : "full_attention";
      return make_rope(config, both.has(key) ? both.json()[key] : none, sliding(i) ? 1e4 : 1e6, d, ids.size());
    }
    if (sliding(i)) return make_rope(config, none, config.number("rope_local_base_freq", 1e4), d, ids.size());
    return make_rope(config, config.has("rope_scaling") ? config.json()["rope_scaling"] : none, config.number("rope_theta", 1e6), d,
                     ids.size());
  };
  return gemma(config, model, ids, 0, softcap(config, "final_logit_softcapping", 0), sliding, rope);
}

/// A norm over each head's channels with weights of its own for each head.
std::function<Cube(const Cube&)> norm_by_head(std::vector<Vector> weights, double eps) {
  return [=](const Cube& x) {
    Cube y = x;
    for (size_t h = 0; h < x.shape(1); ++h) {
      const Matrix head = xt::view(x, xt::all(), h, xt::all());
      xt::view(y, xt::all(), h, xt::all()) = layer_norm(head, weights[h], {}, eps);
    }
    return y;
  };
}

// Stability AI, 2024: LayerNorm, a quarter of each head rotates. StableLM 2 12B: a norm for each head of q and k, and attention and
// feed-forward side by side on the same normalised input.
Matrix stablelm(const Config& config, const Scope& model, Ids ids) {
  const Heads heads = heads_of(config, 32);
  const double eps = config.number("layer_norm_eps", 1e-5);
  const size_t n_rot = static_cast<size_t>(static_cast<double>(heads.d) * partial_rotary_factor(config, 0.25));
  SelfAttention how{heads, make_rope(config, n_rot, ids.size())};
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn";
    if (config.flag("qk_layernorm", false)) {
      const auto weights = [&](const std::string& name, size_t n) {
        std::vector<Vector> all;
        for (size_t h = 0; h < n; ++h) all.push_back((attn / name / "norms" / h).vector("weight"));
        return all;
      };
      how.q_norm = norm_by_head(weights("q_layernorm", heads.n), eps);
      how.k_norm = norm_by_head(weights("k_layernorm", heads.n_kv), eps);
    }
    const Matrix h = layer(block, "input_layernorm", eps)(x);
    x += self_attention(attn, h, how);
    const bool parallel = config.flag("use_parallel_residual", false);
    const Matrix mlp_in = parallel ? h : layer(block, "post_attention_layernorm", eps)(x);
    x += gated_mlp(block / "mlp", mlp_in, config.text("hidden_act", "silu"));
  }
  return unembed(config, model, layer(model, "model.norm", eps)(x));
}

// BigCode, 2024: LayerNorm, biases, and a feed-forward without gate.
Matrix starcoder2(const Config& config, const Scope& model, Ids ids) {
  const Heads heads = heads_of(config, 2);
  const double eps = config.number("norm_epsilon", 1e-5);
  SelfAttention how{heads, make_rope(config, heads.d, ids.size())};
  how.options.window = config.size("sliding_window", 0);
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, mlp = block / "mlp";
    x += self_attention(block / "self_attn", layer(block, "input_layernorm", eps)(x), how);
    const Matrix inner = mlp.linear("c_fc", layer(block, "post_attention_layernorm", eps)(x));
    x += mlp.linear("c_proj", activation(config.text("hidden_act", "gelu_pytorch_tanh"), inner));
  }
  return unembed(config, model, layer(model, "model.norm", eps)(x), true);
}

/// Cohere: one LayerNorm without bias a layer, attention and feed-forward side by side, adjacent channels rotate together, logits scaled.
Matrix command_r(const Config& config, const Scope& model, Ids ids, const std::function<size_t(size_t)>& window,
                 const std::function<bool(size_t)>& rotate) {
  const Heads heads = heads_of(config);
  const double eps = config.number("layer_norm_eps", 1e-5);
  SelfAttention how{heads, make_rope(config, heads.d, ids.size())};
  how.interleaved = true;
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids);
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i, attn = block / "self_attn";
    how.options.window = window(i);
    how.rotate = rotate(i);
    if (config.flag("use_qk_norm", false)) {  // Command R+: weights [n_heads, d_head]
      const auto rows = [](const Matrix& m) {
        std::vector<Vector> all;
        for (size_t h = 0; h < m.shape(0); ++h) all.push_back(xt::view(m, h, xt::all()));
        return all;
      };
      how.q_norm = norm_by_head(rows(attn.matrix("q_norm.weight")), eps);
      how.k_norm = norm_by_head(rows(attn.matrix("k_norm.weight")), eps);
    }
    const Matrix h = layer(block, "input_layernorm", eps)(x);
    x += self_attention(attn, h, how) + gated_mlp(block / "mlp", h, config.text("hidden_act", "silu"));
  }
  return unembed(config, model, layer(model, "model.norm", eps)(x), true) * config.number("logit_scale", 0.0625);
}

// Cohere, 2024.
Matrix cohere(const Config& config, const Scope& model, Ids ids) {
  return command_r(config, model, ids, [](size_t) { return size_t{0}; }, [](size_t) { return true; });
}

// Cohere, 2024 (Command R7B): three sliding layers with rotation for each full one without.
Matrix cohere2(const Config& config, const Scope& model, Ids ids) {
  const auto sliding = [&](size_t i) { return is_sliding(config, i, (i + 1) % config.size("sliding_window_pattern", 4) != 0); };
  return command_r(config, model, ids, [&](size_t i) { return sliding(i) ? config.size("sliding_window", 4096) : 0; }, sliding);
}

}  // namespace

std::span<const Family> gemma_and_other_families() {
  static constexpr Family table[] = {
      {"Gemma2ForCausalLM", gemma2},         {"Gemma3ForCausalLM", gemma3}, {"StableLmForCausalLM", stablelm},
      {"Starcoder2ForCausalLM", starcoder2}, {"CohereForCausalLM", cohere}, {"Cohere2ForCausalLM", cohere2},
  };
  return table;
}

}  // namespace oracle
