// Gemma 2 and Gemma 3 (text): norms before and after, weights stored as w - 1, scaled embeddings, alternating windows.
#include <cmath>

#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {
namespace {

/// What both generations share.
void parse_gemma(const ConfigReader& config, ModelSpec& spec) {
  Json usual = config.json();
  usual["hidden_act"] = config.string_or("hidden_activation", config.string_or("hidden_act", "gelu_pytorch_tanh"));
  const ConfigReader c(usual, config.path());
  parse_common(c, spec);
  config.only("use_bidirectional_attention", false);  // an embedding model
  if (spec.d_ff == 0) config.fail("intermediate_size", "a whole number above 0");
  spec.norm_plus_one = true;
  spec.post_norm = true;
  spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec.d_model)));
  spec.attention_scale = static_cast<float>(1 / std::sqrt(config.positive("query_pre_attn_scalar")));
  spec.attention_softcap = static_cast<float>(config.positive_or("attn_logit_softcapping", 0));
  spec.logit_softcap = static_cast<float>(config.positive_or("final_logit_softcapping", 0));
}

}  // namespace

void parse_gemma2(const ConfigReader& config, ModelSpec& spec) {
  parse_gemma(config, spec);
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  if (!parse_layer_types(config, spec, window)) {
    for (int i = 0; i < spec.n_layers; i += 2) spec.layers[i].window = window;
  }
  spec.ropes.push_back(parse_rope(config, spec.d_head, spec.max_positions));
}

void parse_gemma3(const ConfigReader& config, ModelSpec& spec) {
  parse_gemma(config, spec);
  spec.attention_softcap = 0;  // Gemma3TextConfig has attn_logit_softcapping too, but nothing reads it
  spec.qk_norm = QkNorm::per_head;
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  if (!parse_layer_types(config, spec, window)) {
    const int64_t pattern = config.integer_or("sliding_window_pattern", 6, 1, 1 << 20);
    for (int i = 0; i < spec.n_layers; ++i) spec.layers[i].window = (i + 1) % pattern != 0 ? window : 0;
  }
  // Windowed layers have a rope of their own, unscaled and with a smaller base.
  const Json* parameters = config.has("rope_parameters") ? &config.json().at("rope_parameters") : nullptr;
  if (parameters != nullptr && (parameters->contains("full_attention") || parameters->contains("sliding_attention"))) {
    const ConfigReader kinds = config.object("rope_parameters");
    for (const auto& [kind, theta] : {std::pair{"full_attention", 1e6}, {"sliding_attention", 10000.0}}) {
      const Json one = {{"rope_parameters", kinds.has(kind) ? kinds.object(kind).json() : Json::object()}};
      spec.ropes.push_back(parse_rope(ConfigReader(one, config.path()), spec.d_head, spec.max_positions, theta));
    }
  } else {
    spec.ropes.push_back(parse_rope(config, spec.d_head, spec.max_positions, 1e6));
    const Json local = {{"rope_theta", config.positive_or("rope_local_base_freq", 10000.0)}};
    spec.ropes.push_back(parse_rope(ConfigReader(local, config.path()), spec.d_head, spec.max_positions));
  }
  for (LayerSpec& layer : spec.layers) layer.rope = layer.window > 0 ? 1 : 0;
}

void bind_gemma(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("attention_bias", false);
  const LlamaNames names = {.qkv_bias = bias, .o_bias = bias};
  bind_llama_ends(b, names);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".";
    b.norm(w.attn_norm, p + "input_layernorm", s.d_model);
    b.norm(w.attn_post_norm, p + "post_attention_layernorm", s.d_model);
    b.norm(w.ffn_norm, p + "pre_feedforward_layernorm", s.d_model);
    b.norm(w.ffn_post_norm, p + "post_feedforward_layernorm", s.d_model);
    bind_llama_attention(b, i, names);
    bind_llama_feed_forward(b, i, names);
  }
}

}  // namespace engine
