// Families that differ from Llama in one or two points: SmolLM3, Granite, OLMo 2, StableLM, Starcoder2, Cohere.
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {
namespace {

/// RMSNorm families call it rms_norm_eps; these have LayerNorms with a name of their own.
void use_layer_norm(const ConfigReader& config, const char* key, ModelSpec& spec) {
  spec.norm = NormKind::layer;
  spec.norm_eps = static_cast<float>(config.positive_or(key, 1e-5));
}

}  // namespace

// --- SmolLM3: no position embedding in every fourth layer ----------------------------------------------------------------

void parse_smollm3(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  parse_no_rope_layers(config, spec);
  const bool use = config.boolean_or("use_sliding_window", false);
  const int window = use ? static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30)) : 0;
  if (window == 0 || parse_layer_types(config, spec, window)) return;
  for (LayerSpec& layer : spec.layers) layer.window = layer.rope < 0 ? window : 0;  // where there is no position embedding (SmolLM3Config)
}

// --- Granite 3: four constant factors; the MoE version stacks its experts -------------------------------------------------

void parse_granite(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  spec.embedding_scale = static_cast<float>(config.number_or("embedding_multiplier", 1));
  spec.residual_scale = static_cast<float>(config.number_or("residual_multiplier", 1));
  spec.attention_scale = static_cast<float>(config.number_or("attention_multiplier", 1));
  spec.logit_scale = static_cast<float>(1 / config.positive_or("logits_scaling", 1));
}

void parse_granite_moe(const ConfigReader& config, ModelSpec& spec) {
  parse_granite(config, spec);
  parse_moe(config, spec, "num_local_experts", "num_experts_per_tok", spec.d_ff);
  spec.moe.router = RouterKind::topk_softmax;
}

void bind_granite_moe(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  bind_llama_family(b, config);
  const int64_t d = s.d_model, n = s.moe.n_experts, width = s.moe.d_expert;
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".block_sparse_moe.";
    b.router(w.w_router, p + "router.layer", n, d);
    w.experts.resize(n);
    const Shape in = {n, 2 * width, d}, out = {n, d, width};
    for (int64_t e = 0; e < n; ++e) {
      b.linear(w.experts[e].gate, p + "input_linear", width, d, false, {.first = e * 2 * width, .stored = in});
      b.linear(w.experts[e].up, p + "input_linear", width, d, false, {.first = e * 2 * width + width, .stored = in});
      b.linear(w.experts[e].down, p + "output_linear", d, width, false, {.first = e * d, .stored = out});
    }
  }
}

// --- OLMo 2: norms after attention and feed-forward only, and over whole q and k ------------------------------------------

void parse_olmo2(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  spec.pre_norm = false;
  spec.post_norm = true;
  spec.qk_norm = QkNorm::full;
}

void bind_olmo2(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("attention_bias", false);
  const LlamaNames names = {.qkv_bias = bias, .o_bias = bias};
  bind_llama_ends(b, names);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".";
    b.norm(w.attn_post_norm, p + "post_attention_layernorm", s.d_model);
    b.norm(w.ffn_post_norm, p + "post_feedforward_layernorm", s.d_model);
    b.norm(w.q_norm, p + "self_attn.q_norm", int64_t{s.n_heads} * s.d_head);
    b.norm(w.k_norm, p + "self_attn.k_norm", int64_t{s.n_kv_heads} * s.d_head);
    bind_llama_attention(b, i, names);
    bind_llama_feed_forward(b, i, names);
  }
}

// --- StableLM: LayerNorm with bias, a quarter of each head rotated --------------------------------------------------------

void parse_stablelm(const ConfigReader& config, ModelSpec& spec) {
  parse_common(config, spec);
  if (spec.d_ff == 0) config.fail("intermediate_size", "a whole number above 0");
  use_layer_norm(config, "layer_norm_eps", spec);
  spec.parallel_block = config.boolean_or("use_parallel_residual", false);
  if (config.boolean_or("qk_layernorm", false)) spec.qk_norm = QkNorm::by_head;
  spec.ropes.push_back(parse_rope(config, parse_rotary_width(config, spec.d_head, 0.25), spec.max_positions));
}

void bind_stablelm(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  bind_llama(b, {.qkv_bias = config.boolean_or("use_qkv_bias", false), .norm_bias = true});
  if (s.qk_norm != QkNorm::by_head) return;
  for (int i = 0; i < s.n_layers; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".self_attn.";
    b.layer(i).q_norm.weight = b.joined_vectors(p + "q_layernorm.norms.", ".weight", s.n_heads, s.d_head);
    b.layer(i).k_norm.weight = b.joined_vectors(p + "k_layernorm.norms.", ".weight", s.n_kv_heads, s.d_head);
  }
}

// --- Starcoder2: LayerNorm, biases everywhere, a plain two-matrix feed-forward -------------------------------------------

void parse_starcoder2(const ConfigReader& config, ModelSpec& spec) {
  parse_mistral(config, spec);
  use_layer_norm(config, "norm_epsilon", spec);
  spec.gated = false;
}

void bind_starcoder2(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("use_bias", true);
  const LlamaNames names = {.qkv_bias = bias, .o_bias = bias, .mlp_bias = bias, .norm_bias = true};
  bind_llama_ends(b, names);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".";
    b.norm(w.attn_norm, p + "input_layernorm", s.d_model, true);
    b.norm(w.ffn_norm, p + "post_attention_layernorm", s.d_model, true);
    bind_llama_attention(b, i, names);
    b.linear(w.w_up, p + "mlp.c_fc", s.d_ff, s.d_model, bias);
    b.linear(w.w_down, p + "mlp.c_proj", s.d_model, s.d_ff, bias);
  }
}

// --- Cohere Command-R: attention and feed-forward side by side, adjacent rotary pairs -------------------------------------

void parse_cohere(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  use_layer_norm(config, "layer_norm_eps", spec);
  spec.parallel_block = true;
  spec.logit_scale = static_cast<float>(config.number_or("logit_scale", 0.0625));
  if (config.boolean_or("use_qk_norm", false)) spec.qk_norm = QkNorm::by_head;
  spec.ropes[0].interleaved = true;
}

/// Command-R7B: windows with rope, and every fourth layer sees all without position embedding.
void parse_cohere2(const ConfigReader& config, ModelSpec& spec) {
  parse_cohere(config, spec);
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  if (!parse_layer_types(config, spec, window)) {
    const int64_t pattern = config.integer_or("sliding_window_pattern", 4, 1, 1 << 20);
    for (int i = 0; i < spec.n_layers; ++i) spec.layers[i].window = (i + 1) % pattern != 0 ? window : 0;
  }
  for (LayerSpec& layer : spec.layers) layer.rope = layer.window > 0 ? 0 : -1;
}

void bind_cohere(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("attention_bias", false);
  bind_llama(b, {.qkv_bias = bias, .o_bias = bias});
  if (s.qk_norm != QkNorm::by_head) return;
  for (int i = 0; i < s.n_layers; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".self_attn.";
    b.layer(i).q_norm.weight = b.vector(p + "q_norm.weight", int64_t{s.n_heads} * s.d_head, 0, {.stored = {s.n_heads, s.d_head}});
    b.layer(i).k_norm.weight =
        b.vector(p + "k_norm.weight", int64_t{s.n_kv_heads} * s.d_head, 0, {.stored = {s.n_kv_heads, s.d_head}});
  }
}

}  // namespace engine
