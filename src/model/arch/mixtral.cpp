// Mixture-of-experts models with Llama's attention: Mixtral, Qwen2-MoE (with a shared expert), Qwen3-MoE.
#include <algorithm>

#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {
namespace {

/// gate, up and down of expert `prefix` by the names a family gives them.
void bind_expert(Binder& b, ExpertWeights& e, const std::string& prefix, int64_t width, const char* gate, const char* up,
                 const char* down) {
  const int64_t d = b.spec().d_model;
  b.linear(e.gate, prefix + gate, width, d);
  b.linear(e.up, prefix + up, width, d);
  b.linear(e.down, prefix + down, d, width);
}

void bind_qwen_experts(Binder& b) {
  const ModelSpec& s = b.spec();
  for (int i = 0; i < s.n_layers; ++i) {
    if (!s.layers[i].moe) continue;
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".mlp.";
    b.router(w.w_router, p + "gate", s.moe.n_experts, s.d_model);
    w.experts.resize(s.moe.n_experts);
    for (int e = 0; e < s.moe.n_experts; ++e) {
      bind_expert(b, w.experts[e], p + "experts." + std::to_string(e) + ".", s.moe.d_expert, "gate_proj", "up_proj", "down_proj");
    }
    if (s.moe.d_shared == 0) continue;
    bind_expert(b, w.shared, p + "shared_expert.", s.moe.d_shared, "gate_proj", "up_proj", "down_proj");
    b.router(w.shared_gate, p + "shared_expert_gate", 1, s.d_model);
  }
}

/// Layers of mlp_only_layers, and those that decoder_sparse_step leaves out, are dense.
void parse_qwen_moe(const ConfigReader& config, ModelSpec& spec) {
  parse_moe(config, spec, config.has("num_experts") ? "num_experts" : "num_local_experts", "num_experts_per_tok",
            config.integer("moe_intermediate_size", 1, 1 << 20));
  spec.moe.normalize_topk = config.boolean_or("norm_topk_prob", false);
  const int64_t step = config.integer_or("decoder_sparse_step", 1, 1, 1 << 20);
  for (int i = 0; i < spec.n_layers; ++i) spec.layers[i].moe = (i + 1) % step == 0;
  if (!config.has("mlp_only_layers")) return;
  for (double layer : config.numbers("mlp_only_layers")) {
    if (layer < 0 || layer >= spec.n_layers) config.fail("mlp_only_layers", "indices of layers");
    spec.layers[static_cast<size_t>(layer)].moe = false;
  }
}

}  // namespace

void parse_mixtral(const ConfigReader& config, ModelSpec& spec) {
  parse_mistral(config, spec);
  parse_moe(config, spec, "num_local_experts", "num_experts_per_tok", spec.d_ff);
  spec.moe.normalize_topk = true;
}

void bind_mixtral(Binder& b, const ConfigReader&) {
  const ModelSpec& s = b.spec();
  bind_llama(b, {});
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".block_sparse_moe.";
    b.router(w.w_router, p + "gate", s.moe.n_experts, s.d_model);
    w.experts.resize(s.moe.n_experts);
    for (int e = 0; e < s.moe.n_experts; ++e) {
      bind_expert(b, w.experts[e], p + "experts." + std::to_string(e) + ".", s.moe.d_expert, "w1", "w3", "w2");
    }
  }
}

void parse_qwen2_moe(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  const int window = parse_qwen_window(config);
  if (window > 0 && !parse_layer_types(config, spec, window)) {  // every second layer, up to max_window_layers (Qwen2MoeConfig)
    const int64_t end = std::min<int64_t>(spec.n_layers, config.integer_or("max_window_layers", 28, 0, 1 << 20));
    for (int64_t i = 0; i < end; i += 2) spec.layers[i].window = window;
  }
  parse_qwen_moe(config, spec);
  spec.moe.d_shared = static_cast<int>(config.integer("shared_expert_intermediate_size", 1, 1 << 20));
  spec.moe.shared_gate = true;
}

void bind_qwen2_moe(Binder& binder, const ConfigReader& config) {
  bind_llama(binder, {.qkv_bias = config.boolean_or("qkv_bias", true)});
  bind_qwen_experts(binder);
}

void parse_qwen3_moe(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  spec.qk_norm = QkNorm::per_head;
  for (LayerSpec& layer : spec.layers) layer.window = parse_qwen_window(config);  // all of them, whatever else the file says
  parse_qwen_moe(config, spec);
}

void bind_qwen3_moe(Binder& binder, const ConfigReader& config) {
  bind_qwen3(binder, config);
  bind_qwen_experts(binder);
}

}  // namespace engine
