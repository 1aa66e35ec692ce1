// What the families share.
#include <cmath>

#include "base/error.h"
#include "model/arch/family.h"
#include "model/binder.h"

namespace engine {
namespace {

constexpr int64_t max_width = 1 << 20;  // of any matrix side but the vocabulary

std::vector<int32_t> parse_ids(const ConfigReader& config, std::string_view key, int64_t vocab_size) {
  std::vector<int32_t> ids;
  if (!config.has(key)) return ids;
  const Json& value = config.json().at(std::string(key));
  const auto add = [&](const Json& v) {
    if (!v.is_number_integer() || v.get<int64_t>() >= vocab_size) {
      config.fail(key, "a token id below the vocabulary's size of " + std::to_string(vocab_size));
    }
    if (v.get<int64_t>() >= 0) ids.push_back(v.get<int32_t>());  // -1 means none in some configs
  };
  if (value.is_array()) {
    for (const Json& v : value) add(v);
  } else {
    add(value);
  }
  return ids;
}

}  // namespace

kernels::Activation parse_activation(const ConfigReader& config, std::string_view key, std::string_view fallback) {
  using kernels::Activation;
  static constexpr std::pair<std::string_view, Activation> names[] = {
      {"silu", Activation::silu},           {"swish", Activation::silu},
      {"gelu", Activation::gelu},           {"gelu_new", Activation::gelu_tanh},
      {"gelu_fast", Activation::gelu_tanh}, {"gelu_pytorch_tanh", Activation::gelu_tanh},
      {"relu", Activation::relu},           {"relu2", Activation::relu2},
  };
  const std::string name = config.string_or(key, fallback);
  for (const auto& [known, kind] : names) {
    if (known == name) return kind;
  }
  config.fail(key, "one of silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2");
}

void parse_common(const ConfigReader& config, ModelSpec& spec) {
  spec.n_layers = static_cast<int>(config.integer("num_hidden_layers", 1, 4096));
  spec.d_model = static_cast<int>(config.integer("hidden_size", 1, max_width));
  spec.n_heads = static_cast<int>(config.integer("num_attention_heads", 1, 65536));
  spec.n_kv_heads = static_cast<int>(config.integer_or("num_key_value_heads", spec.n_heads, 1, 65536));
  if (spec.n_heads % spec.n_kv_heads != 0) {
    config.fail("num_key_value_heads", "a divisor of num_attention_heads (" + std::to_string(spec.n_heads) + ")");
  }
  if (config.has("head_dim")) {
    spec.d_head = static_cast<int>(config.integer("head_dim", 2, 4096));
  } else {
    if (spec.d_model % spec.n_heads != 0) {
      config.fail("num_attention_heads", "a divisor of hidden_size (" + std::to_string(spec.d_model) + ")");
    }
    spec.d_head = spec.d_model / spec.n_heads;
  }
  if (spec.d_head % 2 != 0 || spec.d_head > 4096) config.fail("head_dim", "an even number of at most 4096");
  spec.d_ff = static_cast<int>(config.integer_or("intermediate_size", 0, 1, max_width));
  spec.vocab_size = static_cast<int>(config.integer("vocab_size", 1, 16 << 20));
  spec.max_positions = config.integer_or("max_position_embeddings", 2048, 1, int64_t{1} << 40);
  spec.norm_eps = static_cast<float>(config.positive_or("rms_norm_eps", 1e-6));
  spec.tied_embeddings = config.boolean_or("tie_word_embeddings", false);
  spec.activation = parse_activation(config, "hidden_act", "silu");
  const std::vector<int32_t> bos = parse_ids(config, "bos_token_id", spec.vocab_size);
  spec.bos_token_id = bos.empty() ? -1 : bos[0];
  spec.eos_token_ids = parse_ids(config, "eos_token_id", spec.vocab_size);
  spec.torch_dtype = config.string_or(config.has("dtype") ? "dtype" : "torch_dtype", "");
  spec.layers.assign(spec.n_layers, LayerSpec{});
}

void bind_llama_attention(Binder& b, int i, const LlamaNames& names) {
  const ModelSpec& s = b.spec();
  LayerWeights& w = b.layer(i);
  const std::string p = "model.layers." + std::to_string(i) + ".self_attn.";
  const int64_t q = int64_t{s.n_heads} * s.d_head, kv = int64_t{s.n_kv_heads} * s.d_head;
  b.linear(w.wq, p + "q_proj", q, s.d_model, names.qkv_bias);
  b.linear(w.wk, p + "k_proj", kv, s.d_model, names.qkv_bias);
  b.linear(w.wv, p + "v_proj", kv, s.d_model, names.qkv_bias);
  b.linear(w.wo, p + "o_proj", s.d_model, q, names.o_bias);
  if (s.qk_norm == QkNorm::per_head) {
    b.norm(w.q_norm, p + "q_norm", s.d_head);
    b.norm(w.k_norm, p + "k_norm", s.d_head);
  }
}

void bind_llama_ends(Binder& b, const LlamaNames& names) {
  const ModelSpec& s = b.spec();
  b.ends("model.embed_tokens", "lm_head");
  b.norm(b.weights().final_norm, "model.norm", s.d_model, names.norm_bias);
}

void bind_llama_feed_forward(Binder& b, int i, const LlamaNames& names) {
  const ModelSpec& s = b.spec();
  LayerWeights& w = b.layer(i);
  const std::string p = "model.layers." + std::to_string(i) + ".mlp.";
  b.linear(w.w_gate, p + "gate_proj", s.d_ff, s.d_model, names.mlp_bias);
  b.linear(w.w_up, p + "up_proj", s.d_ff, s.d_model, names.mlp_bias);
  b.linear(w.w_down, p + "down_proj", s.d_model, s.d_ff, names.mlp_bias);
}

void bind_llama(Binder& b, const LlamaNames& names) {
  const ModelSpec& s = b.spec();
  bind_llama_ends(b, names);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".";
    b.norm(w.attn_norm, p + "input_layernorm", s.d_model, names.norm_bias);
    if (!s.parallel_block) b.norm(w.ffn_norm, p + "post_attention_layernorm", s.d_model, names.norm_bias);
    bind_llama_attention(b, i, names);
    if (!s.layers[i].moe) bind_llama_feed_forward(b, i, names);  // a family binds its own experts
  }
}

bool parse_layer_types(const ConfigReader& config, ModelSpec& spec, int window, int chunk) {
  if (!config.has("layer_types")) return false;
  const Json& types = config.json().at("layer_types");
  if (!types.is_array() || types.size() != static_cast<size_t>(spec.n_layers)) {
    config.fail("layer_types", "a list of num_hidden_layers (" + std::to_string(spec.n_layers) + ") names");
  }
  for (int i = 0; i < spec.n_layers; ++i) {
    if (types[i] == "sliding_attention" && chunk == 0) {
      if (window <= 0) config.fail("sliding_window", "a whole number above 0, since layer_types has sliding layers");
      spec.layers[i].window = window;
    } else if (types[i] == "chunked_attention" && chunk > 0) {
      spec.layers[i].chunk = chunk;
    } else if (types[i] == "full_attention") {
      spec.layers[i].window = 0;
    } else {
      config.fail("layer_types", std::string(chunk > 0 ? "chunked" : "sliding") + "_attention or full_attention in every place");
    }
  }
  return true;
}

void parse_no_rope_layers(const ConfigReader& config, ModelSpec& spec) {
  const std::vector<double> rotary = config.has("no_rope_layers") ? config.numbers("no_rope_layers") : std::vector<double>{};
  const int64_t interval = config.integer_or("no_rope_layer_interval", 4, 1, 1 << 20);
  if (!rotary.empty() && rotary.size() < spec.layers.size()) config.fail("no_rope_layers", "a number for each layer");
  for (int i = 0; i < spec.n_layers; ++i) {
    const bool rotates = rotary.empty() ? (i + 1) % interval != 0 : rotary[static_cast<size_t>(i)] != 0;
    spec.layers[i].rope = rotates ? 0 : -1;
  }
}

void parse_moe(const ConfigReader& config, ModelSpec& spec, const char* n_experts_key, const char* n_used_key, int64_t d_expert) {
  spec.moe.n_experts = static_cast<int>(config.integer(n_experts_key, 1, 65536));
  spec.moe.n_used = static_cast<int>(config.integer(n_used_key, 1, spec.moe.n_experts));
  spec.moe.d_expert = static_cast<int>(d_expert);
  for (LayerSpec& layer : spec.layers) layer.moe = true;
}

}  // namespace engine
