// Phi-3, Phi-3.5 and Phi-4: fused projections, partial rotary, longrope.
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {

void parse_phi3(const ConfigReader& config, ModelSpec& spec) {
  parse_common(config, spec);
  if (spec.d_ff == 0) config.fail("intermediate_size", "a whole number above 0");
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  for (LayerSpec& layer : spec.layers) layer.window = window;
  spec.ropes.push_back(parse_rope(config, parse_rotary_width(config, spec.d_head, 1.0), spec.max_positions));
}

void bind_phi3(Binder& b, const ConfigReader&) {
  const ModelSpec& s = b.spec();
  const int64_t d = s.d_model, q = int64_t{s.n_heads} * s.d_head, kv = int64_t{s.n_kv_heads} * s.d_head, ff = s.d_ff;
  bind_llama_ends(b, {});
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".";
    b.norm(w.attn_norm, p + "input_layernorm", d);
    b.norm(w.ffn_norm, p + "post_attention_layernorm", d);
    const Shape qkv = {q + 2 * kv, d}, gate_up = {2 * ff, d};
    b.linear(w.wq, p + "self_attn.qkv_proj", q, d, false, {.stored = qkv});
    b.linear(w.wk, p + "self_attn.qkv_proj", kv, d, false, {.first = q, .stored = qkv});
    b.linear(w.wv, p + "self_attn.qkv_proj", kv, d, false, {.first = q + kv, .stored = qkv});
    b.linear(w.wo, p + "self_attn.o_proj", d, q);
    b.linear(w.w_gate, p + "mlp.gate_up_proj", ff, d, false, {.stored = gate_up});
    b.linear(w.w_up, p + "mlp.gate_up_proj", ff, d, false, {.first = ff, .stored = gate_up});
    b.linear(w.w_down, p + "mlp.down_proj", d, ff);
  }
}

}  // namespace engine
