// Mixtures of experts.
#include <algorithm>
#include <cmath>
#include <xtensor/xmath.hpp>
#include <xtensor/xview.hpp>

#include "parts.h"

namespace oracle {

namespace {

/// x += attention(norm(x)); x += ffn(layer, norm(x)), as in Llama.
Matrix stack(const Config& config, const Scope& model, Ids ids, const Heads& heads, double eps,
             const std::function<void(size_t, const Scope&, SelfAttention&)>& adjust,
             const std::function<Matrix(size_t, const Scope&, const Matrix&)>& ffn, double embedding_scale = 1,
             double residual_scale = 1) {
  Matrix x = embed(model.matrix("model.embed_tokens.weight"), ids) * embedding_scale;
  for (size_t i = 0; i < config.size("num_hidden_layers"); ++i) {
    const Scope block = model / "model" / "layers" / i;
    SelfAttention how{heads, make_rope(config, heads.d, ids.size())};
    adjust(i, block / "self_attn", how);
    x += residual_scale * self_attention(block / "self_attn", rms(block, "input_layernorm", eps)(x), how);
    x += residual_scale * ffn(i, block, rms(block, "post_attention_layernorm", eps)(x));
  }
  return unembed(config, model, rms(model, "model.norm", eps)(x));
}

// Jiang et al., 2024. w1: gate, w3: up, w2: down.
Matrix mixtral(const Config& config, const Scope& model, Ids ids) {
  const size_t k = config.size("num_experts_per_tok", 2);
  const std::string act = config.text("hidden_act", "silu");
  const auto ffn = [&](size_t, const Scope& block, const Matrix& x) {
    const Scope moe = block / "block_sparse_moe";
    return mixture(
        x, moe.linear("gate", x), [&](const Vector& l) { return softmax_then_top(l, k, true); },
        [&](size_t e, const Matrix& h) {
          const Scope expert = moe / "experts" / e;
          return expert.linear("w2", expert.linear("w3", h) * activation(act, expert.linear("w1", h)));
        });
  };
  const auto adjust = [&](size_t, const Scope&, SelfAttention& how) { how.options.window = config.size("sliding_window", 0); };
  return stack(config, model, ids, heads_of(config, 8), config.number("rms_norm_eps", 1e-5), adjust, ffn);
}

/// Qwen's experts; dense in the layers of mlp_only_layers and where decoder_sparse_step does not divide the layer's number.
Matrix qwen_ffn(const Config& config, size_t i, const Scope& block, const Matrix& x, bool normalize) {
  const std::string act = config.text("hidden_act", "silu");
  const Scope mlp = block / "mlp";
  bool dense = (i + 1) % config.size("decoder_sparse_step", 1) != 0;
  if (config.has("mlp_only_layers")) {
    for (const auto& layer : config.json()["mlp_only_layers"]) dense = dense || layer.get<size_t>() == i;
  }
  if (dense) return gated_mlp(mlp, x, act);
  const size_t k = config.size("num_experts_per_tok");
  Matrix y = mixture(
      x, mlp.linear("gate", x), [&](const Vector& l) { return softmax_then_top(l, k, normalize); },
      [&](size_t e, const Matrix& h) { return gated_mlp(mlp / "experts" / e, h, act); });
  if (mlp.has("shared_expert_gate.weight")) {  // Qwen2-MoE: one expert for all tokens, weighed by a gate of its own
    const Matrix gate = 1 / (1 + xt::exp(-mlp.linear("shared_expert_gate", x)));  // [T, 1]
    y += gate * gated_mlp(mlp / "shared_expert", x, act);
  }
  return y;
}

// Qwen team, 2024: biases on q, k and v; the selected probabilities are not normalised unless norm_topk_prob.
Matrix qwen2_moe(const Config& config, const Scope& model, Ids ids) {
  const auto adjust = [&](size_t i, const Scope&, SelfAttention& how) {
    const bool sliding = is_sliding(config, i, (i + 1) % 2 != 0 && i < config.size("max_window_layers", 28));
    how.options.window = sliding && config.flag("use_sliding_window", false) ? config.size("sliding_window", 4096) : 0;
  };
  const auto ffn = [&](size_t i, const Scope& block, const Matrix& x) {
    return qwen_ffn(config, i, block, x, config.flag("norm_topk_prob", false));
  };
  return stack(config, model, ids, heads_of(config, 16), config.number("rms_norm_eps", 1e-6), adjust, ffn);
}

// Qwen team, 2025: q and k normalised over each head; no shared expert.
Matrix qwen3_moe(const Config& config, const Scope& model, Ids ids) {
  const double eps = config.number("rms_norm_eps", 1e-6);
  const auto adjust = [&](size_t, const Scope& attn, SelfAttention& how) {
    how.options.window = config.flag("use_sliding_window", false) ? config.size("sliding_window", 4096) : 0;
    how.q_norm = [=](const Cube& q) { return per_head(q, rms(attn, "q_norm", eps)); };
    how.k_norm = [=](const Cube& k) { return per_head(k, rms(attn, "k_norm", eps)); };
  };
  const auto ffn = [&](size_t i, const Scope& block, const Matrix& x) {
    return qwen_ffn(config, i, block, x, config.flag("norm_topk_prob", false));
  };
  return stack(config, model, ids, heads_of(config, 4), eps, adjust, ffn);
}

/// The experts' matrices of GPT-OSS: NAME [n_experts, n_in, n_out], or MXFP4: NAME_blocks and NAME_scales, stored by outputs.
/// Returns [n_out, n_in] of one expert.
Matrix gpt_oss_expert(const Scope& experts, const std::string& name, size_t e) {
  if (experts.has(name)) {
    const Matrix m = xt::view(experts.cube(name), e, xt::all(), xt::all());
    return xt::transpose(m);
  }
  // OCP MX specification v1.0: 32 FP4 (e2m1) values share a power of two; the low nibble comes first.
  static constexpr double fp4[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
  const engine::TensorView& blocks = experts.raw(name + "_blocks");  // [n_experts, n_out, n_in / 32, 16]
  const engine::TensorView& scales = experts.raw(name + "_scales");  // [n_experts, n_out, n_in / 32]
  const size_t n_out = static_cast<size_t>(blocks.dim(1)), n_blocks = static_cast<size_t>(blocks.dim(2));
  Matrix m = Matrix::from_shape({n_out, n_blocks * 32});
  for (size_t o = 0; o < n_out; ++o) {
    for (size_t b = 0; b < n_blocks; ++b) {
      const size_t at = (e * n_out + o) * n_blocks + b;
      const double scale = std::exp2(std::to_integer<int>(scales.data[at]) - 127);
      for (size_t i = 0; i < 32; ++i) {
        const int byte = std::to_integer<int>(blocks.data[at * 16 + i / 2]);
        m(o, b * 32 + i) = fp4[(i % 2 == 0 ? byte : byte >> 4) & 15] * scale;
      }
    }
  }
  return m;
}

// OpenAI, 2025: sinks, alternating windows, biases everywhere, and experts whose gate and up rows alternate:
// clamp(gate, up to 7), clamp(up, +-7), (up + 1) * gate * sigmoid(1.702 gate).
Matrix gpt_oss(const Config& config, const Scope& model, Ids ids) {
  const double eps = config.number("rms_norm_eps", 1e-5), limit = config.number("swiglu_limit", 7);
  const size_t k = config.size("num_experts_per_tok", 4);
  const auto adjust = [&](size_t i, const Scope& attn, SelfAttention& how) {
    how.options.window = is_sliding(config, i, i % 2 == 0) ? config.size("sliding_window", 128) : 0;
    how.options.sinks = attn.vector("sinks");
  };
  const auto ffn = [&](size_t, const Scope& block, const Matrix& x) {
    const Scope mlp = block / "mlp", experts = mlp / "experts";
    const Matrix gate_up_bias = experts.matrix("gate_up_proj_bias"), down_bias = experts.matrix("down_proj_bias");
    return mixture(
        x, mlp.linear("router", x), [&](const Vector& l) { return top_then_softmax(l, k); },
        [&](size_t e, const Matrix& h) -> Matrix {
          const Matrix both = linear(h, gpt_oss_expert(experts, "gate_up_proj", e), xt::view(gate_up_bias, e, xt::all()));
          const Matrix gate = xt::minimum(xt::view(both, xt::all(), xt::range(0, both.shape(1), 2)), limit);
          const Matrix up = xt::clip(xt::view(both, xt::all(), xt::range(1, both.shape(1), 2)), -limit, limit);
          const Matrix inner = (up + 1) * gate / (1 + xt::exp(-1.702 * gate));
          return linear(inner, gpt_oss_expert(experts, "down_proj", e), xt::view(down_bias, e, xt::all()));
        });
  };
  return stack(config, model, ids, heads_of(config, 8, 64), eps, adjust, ffn);
}

// IBM, 2024: Granite's multipliers; input_linear holds each expert's gate rows, then its up rows.
Matrix granite_moe(const Config& config, const Scope& model, Ids ids) {
  const size_t k = config.size("num_experts_per_tok", 2), d_ff = config.size("intermediate_size");
  const std::string act = config.text("hidden_act", "silu");
  const auto adjust = [&](size_t, const Scope&, SelfAttention& how) { how.options.scale = config.number("attention_multiplier", 1); };
  const auto ffn = [&](size_t, const Scope& block, const Matrix& x) {
    const Scope moe = block / "block_sparse_moe";
    const Cube input = moe.cube("input_linear.weight"), output = moe.cube("output_linear.weight");
    return mixture(
        x, (moe / "router").linear("layer", x), [&](const Vector& l) { return top_then_softmax(l, k); },
        [&](size_t e, const Matrix& h) {
          const Matrix both = linear(h, xt::view(input, e, xt::all(), xt::all()));
          const Matrix gate = xt::view(both, xt::all(), xt::range(0, d_ff));
          const Matrix up = xt::view(both, xt::all(), xt::range(d_ff, 2 * d_ff));
          return linear(activation(act, gate) * up, xt::view(output, e, xt::all(), xt::all()));
        });
  };
  return stack(config, model, ids, heads_of(config), config.number("rms_norm_eps", 1e-6), adjust, ffn,
               config.number("embedding_multiplier", 1), config.number("residual_multiplier", 1)) /
         config.number("logits_scaling", 1);
}

// Meta, 2025: attention in chunks with q and k normalised after the rotation; layers without rotation see everything, and their queries
// grow with the logarithm of the position. The chosen experts' inputs are scaled by the sigmoid of the router's logit; gate and up lie side
// by side, stored by inputs.
Matrix llama4(const Config& config, const Scope& model, Ids ids) {
  const double eps = config.number("rms_norm_eps", 1e-5);
  const size_t n_layers = config.size("num_hidden_layers"), d_ff = config.size("intermediate_size"), k = config.size("num_experts_per_tok", 1);
  const std::string act = config.text("hidden_act", "silu");
  const auto list = [&](const char* key) { return config.has(key) ? config.json()[key].get<std::vector<size_t>>() : std::vector<size_t>{}; };
  std::vector<size_t> rotates = list("no_rope_layers"), sparse = list("moe_layers");
  const size_t interval = config.size("no_rope_layer_interval", 4), step = config.size("interleave_moe_layer_step", 1);
  for (size_t i = rotates.size(); i < n_layers; ++i) rotates.push_back((i + 1) % interval != 0);
  for (size_t i = step - 1; i < n_layers && !config.has("moe_layers"); i += step) sparse.push_back(i);
  const auto unit = [=](const Cube& x) {
    return per_head(x, [=](const Matrix& rows) { return rms_norm(rows, xt::ones<double>({rows.shape(1)}), eps); });
  };
  const auto grow = [&](const Cube& q) {
    Cube y = q;
    for (size_t t = 0; t < q.shape(0); ++t) {
      const double steps = std::floor((static_cast<double>(t) + 1) / config.number("floor_scale", 8192));
      xt::view(y, t, xt::all(), xt::all()) *= std::log1p(steps) * config.number("attn_scale", 0.1) + 1;
    }
    return y;
  };
  const auto adjust = [&](size_t i, const Scope&, SelfAttention& how) {
    const bool chunked = config.has("layer_types") ? config.json()["layer_types"].at(i) == "chunked_attention" : rotates[i] != 0;
    how.options.chunk = chunked ? config.size("attention_chunk_size", 8192) : 0;
    how.interleaved = true;
    how.rotate = rotates[i] != 0;
    if (how.rotate && config.flag("use_qk_norm", true)) how.q_last = how.k_last = unit;
    if (!how.rotate && config.flag("attn_temperature_tuning", true)) how.q_last = grow;
  };
  const auto ffn = [&](size_t i, const Scope& block, const Matrix& x) {
    const Scope moe = block / "feed_forward";
    if (std::find(sparse.begin(), sparse.end(), i) == sparse.end()) return gated_mlp(moe, x, act);
    const Cube gate_up = (moe / "experts").cube("gate_up_proj"), down = (moe / "experts").cube("down_proj");
    const Matrix logits = moe.linear("router", x);
    Matrix y = gated_mlp(moe / "shared_expert", x, act);
    for (size_t e = 0; e < logits.shape(1); ++e) {
      Matrix scaled = xt::zeros<double>(x.shape());  // a token that did not choose the expert brings nothing
      for (size_t t = 0; t < x.shape(0); ++t) {
        const std::vector<size_t> chosen = top(xt::view(logits, t, xt::all()), k);
        if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) continue;
        xt::view(scaled, t, xt::all()) = xt::view(x, t, xt::all()) / (1 + std::exp(-logits(t, e)));
      }
      const Matrix both = linear(scaled, xt::transpose(Matrix(xt::view(gate_up, e, xt::all(), xt::all()))));
      const Matrix gate = xt::view(both, xt::all(), xt::range(0, d_ff)), up = xt::view(both, xt::all(), xt::range(d_ff, 2 * d_ff));
      y += linear(activation(act, gate) * up, xt::transpose(Matrix(xt::view(down, e, xt::all(), xt::all()))));
    }
    return y;
  };
  return stack(config, model, ids, heads_of(config, 8, 128), eps, adjust, ffn);
}

// Databricks, 2024: LayerNorm without bias, q, k and v in one matrix and clamped, experts' matrices one below the other; w2 is stored by
// inputs (h w2, no transpose).
Matrix dbrx(const Config& config, const Scope& model, Ids ids) {
  const engine::Json empty = engine::Json::object();
  const Config attn_config(config.has("attn_config") ? config.json()["attn_config"] : empty);
  const Config ffn_config(config.has("ffn_config") ? config.json()["ffn_config"] : empty);
  const size_t d_model = config.size("d_model", 2048), n_heads = config.size("n_heads", 16);
  const Heads heads{n_heads, attn_config.size("kv_n_heads", 1), d_model / n_heads};
  const double theta = attn_config.number("rope_theta", 10000), clip = attn_config.number("clip_qkv", INFINITY);
  const SelfAttention how{heads, make_rope(config, empty, theta, heads.d, ids.size())};
  const size_t n_k = heads.n_kv * heads.d, d_ff = ffn_config.size("ffn_hidden_size", 3584), k = ffn_config.size("moe_top_k", 1);
  const bool no_norm = ffn_config.json().contains("moe_normalize_expert_weights") && !ffn_config.has("moe_normalize_expert_weights");
  const double p = ffn_config.number("moe_normalize_expert_weights", 1);
  const auto route = [&](const Vector& logits) {
    Routing routing = softmax_then_top(logits, k, false);
    double sum = 0;
    for (const auto& [e, weight] : routing) sum += std::pow(weight, p);
    for (auto& [e, weight] : routing) weight /= no_norm ? 1 : std::pow(sum, 1 / p);
    return routing;
  };
  Matrix x = embed(model.matrix("transformer.wte.weight"), ids);
  for (size_t i = 0; i < config.size("n_layers", 24); ++i) {
    const Scope block = model / "transformer" / "blocks" / i, norms = block / "norm_attn_norm", ffn = block / "ffn";
    const Matrix qkv = xt::clip((norms / "attn").linear("Wqkv", layer(norms, "norm_1", 1e-5)(x)), -clip, clip);
    const Matrix q = xt::view(qkv, xt::all(), xt::range(0, d_model));
    const Matrix key = xt::view(qkv, xt::all(), xt::range(d_model, d_model + n_k));
    const Matrix v = xt::view(qkv, xt::all(), xt::range(d_model + n_k, d_model + 2 * n_k));
    x += (norms / "attn").linear("out_proj", attend(how, q, key, v));
    const Matrix h = layer(norms, "norm_2", 1e-5)(x);
    const Scope mlp = ffn / "experts" / "mlp";
    const Matrix w1 = mlp.matrix("w1"), v1 = mlp.matrix("v1"), w2 = mlp.matrix("w2");
    x += mixture(h, (ffn / "router").linear("layer", h), route, [&](size_t e, const Matrix& in) {
      const auto rows_of_expert = [&](const Matrix& all) -> Matrix {
        return xt::view(all, xt::range(e * d_ff, (e + 1) * d_ff), xt::all());
      };
      const Matrix gate = activation("silu", linear(in, rows_of_expert(w1)));
      return linear(gate * linear(in, rows_of_expert(v1)), xt::transpose(rows_of_expert(w2)));
    });
  }
  return linear(layer(model, "transformer.norm_f", 1e-5)(x), model.matrix("lm_head.weight"));
}

}  // namespace

std::span<const Family> expert_families() {
  static constexpr Family table[] = {
      {"MixtralForCausalLM", mixtral}, {"Qwen2MoeForCausalLM", qwen2_moe},       {"Qwen3MoeForCausalLM", qwen3_moe},
      {"GptOssForCausalLM", gpt_oss},  {"GraniteMoeForCausalLM", granite_moe},   {"DbrxForCausalLM", dbrx},
      {"Llama4ForCausalLM", llama4},
  };
  return table;
}

}  // namespace oracle
