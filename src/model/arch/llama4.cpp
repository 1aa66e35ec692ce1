// Llama 4 (text): attention in chunks, layers without position embedding whose queries grow with the position, q and k normalised after the
// rotation, experts whose inputs are scaled (modeling_llama4.py).
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {

void parse_llama4(const ConfigReader& config, ModelSpec& spec) {
  // intermediate_size is the experts' width here, intermediate_size_mlp that of the dense layers.
  Json usual = config.json();
  usual["intermediate_size"] = usual["intermediate_size_mlp"];
  const ConfigReader c(usual, config.path());
  parse_llama(c, spec);
  spec.ropes[0].interleaved = true;
  parse_no_rope_layers(config, spec);
  const int chunk = static_cast<int>(config.integer("attention_chunk_size", 1, 1 << 30));
  if (!parse_layer_types(config, spec, 0, chunk)) {
    for (LayerSpec& layer : spec.layers) layer.chunk = layer.rope >= 0 ? chunk : 0;
  }
  if (config.boolean_or("use_qk_norm", true)) spec.qk_norm = QkNorm::unit;
  // The first files say 4 where later ones say true.
  const Json tuning = config.has("attn_temperature_tuning") ? config.json().at("attn_temperature_tuning") : Json(true);
  if (!tuning.is_boolean() && !tuning.is_number_integer()) config.fail("attn_temperature_tuning", "true or false");
  if (tuning.is_boolean() ? tuning.get<bool>() : tuning.get<int64_t>() != 0) {
    spec.temperature_scale = static_cast<float>(config.number_or("attn_scale", 0.1));
    spec.temperature_floor = static_cast<float>(config.positive_or("floor_scale", 8192));
  }

  const int64_t width = config.integer("intermediate_size", 1, 1 << 20);
  parse_moe(config, spec, "num_local_experts", "num_experts_per_tok", width);
  spec.moe.router = RouterKind::topk_sigmoid;
  spec.moe.scale_input = true;
  spec.moe.d_shared = static_cast<int>(width);
  const int64_t step = config.integer_or("interleave_moe_layer_step", 1, 1, 1 << 20);
  for (int i = 0; i < spec.n_layers; ++i) spec.layers[i].moe = !config.has("moe_layers") && (i + 1) % step == 0;
  if (!config.has("moe_layers")) return;
  for (double layer : config.numbers("moe_layers")) {
    if (layer < 0 || layer >= spec.n_layers) config.fail("moe_layers", "indices of layers");
    spec.layers[static_cast<size_t>(layer)].moe = true;
  }
}

void bind_llama4(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("attention_bias", false);
  const LlamaNames names = {.qkv_bias = bias, .o_bias = bias};
  const int64_t d = s.d_model, n = s.moe.n_experts, width = s.moe.d_expert;
  bind_llama_ends(b, names);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".", f = p + "feed_forward.";
    b.norm(w.attn_norm, p + "input_layernorm", d);
    b.norm(w.ffn_norm, p + "post_attention_layernorm", d);
    bind_llama_attention(b, i, names);
    const auto bind_three = [&](Linear& gate, Linear& up, Linear& down, const std::string& prefix, int64_t inner) {
      b.linear(gate, prefix + "gate_proj", inner, d);
      b.linear(up, prefix + "up_proj", inner, d);
      b.linear(down, prefix + "down_proj", d, inner);
    };
    if (!s.layers[i].moe) {
      bind_three(w.w_gate, w.w_up, w.w_down, f, s.d_ff);
      continue;
    }
    b.router(w.w_router, f + "router", n, d);
    bind_three(w.shared.gate, w.shared.up, w.shared.down, f + "shared_expert.", width);
    w.experts.resize(n);
    const std::string e = f + "experts.";
    if (!b.has(e + "gate_up_proj") && !b.has(e + "down_proj")) {  // taken apart, as programs that quantize do
      for (int64_t k = 0; k < n; ++k) {
        bind_three(w.experts[k].gate, w.experts[k].up, w.experts[k].down, e + std::to_string(k) + ".", width);
      }
      continue;
    }
    // Stored by inputs: our [outputs, inputs] is the transpose.
    const TensorView* gate_up = b.expect(e + "gate_up_proj", {n, d, 2 * width});
    const TensorView* down = b.expect(e + "down_proj", {n, width, d});
    if (gate_up == nullptr || down == nullptr) continue;
    for (int64_t k = 0; k < n; ++k) {
      b.matrix(w.experts[k].gate.w, transposed_rows(*gate_up, k * d, d), width, d);
      b.matrix(w.experts[k].up.w, transposed_rows(*gate_up, k * d, d, width), width, d);
      b.matrix(w.experts[k].down.w, transposed_rows(*down, k * width, width), d, width);
    }
  }
}

}  // namespace engine
