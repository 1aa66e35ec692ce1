// DBRX: clamped fused q/k/v, LayerNorm without bias, 16 experts of which 4 are used (modeling_dbrx.py).
#include "base/error.h"
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {

void parse_dbrx(const ConfigReader& config, ModelSpec& spec) {
  // The sizes have names of their own and partly lie in nested objects; said in the usual words, the usual parser checks them.
  const ConfigReader attention = config.object("attn_config"), ffn = config.object("ffn_config");
  Json usual = config.json();
  const auto rename = [&](const ConfigReader& from, const char* key, const char* name) {
    if (from.has(key)) usual[name] = from.json().at(key);
  };
  rename(config, "d_model", "hidden_size");
  rename(config, "n_layers", "num_hidden_layers");
  rename(config, "n_heads", "num_attention_heads");
  rename(config, "max_seq_len", "max_position_embeddings");
  usual["num_key_value_heads"] = 1;
  usual["num_local_experts"] = 4;
  usual["num_experts_per_tok"] = 1;
  rename(attention, "kv_n_heads", "num_key_value_heads");
  rename(attention, "rope_theta", "rope_theta");
  rename(ffn, "ffn_hidden_size", "intermediate_size");
  rename(ffn, "moe_num_experts", "num_local_experts");
  rename(ffn, "moe_top_k", "num_experts_per_tok");
  if (ffn.has("ffn_act_fn")) rename(ffn.object("ffn_act_fn"), "name", "hidden_act");
  const ConfigReader c(usual, config.path());
  parse_common(c, spec);
  spec.ropes.push_back(parse_rope(c, spec.d_head, spec.max_positions));
  parse_moe(c, spec, "num_local_experts", "num_experts_per_tok", c.integer("intermediate_size", 1, 1 << 20));
  spec.norm = NormKind::layer;
  spec.norm_eps = 1e-5f;  // torch's LayerNorm default; not in the config
  spec.clip_qkv = static_cast<float>(attention.positive_or("clip_qkv", 0));
  // Weights of the chosen experts are divided by their p-norm; 1 is the default, and what has been published. null: not divided.
  if (ffn.has("moe_normalize_expert_weights")) ffn.only("moe_normalize_expert_weights", Json(1.0));
  const auto norm = ffn.json().find("moe_normalize_expert_weights");
  spec.moe.normalize_topk = norm == ffn.json().end() || !norm->is_null();
}

void bind_dbrx(Binder& b, const ConfigReader&) {
  const ModelSpec& s = b.spec();
  const int64_t d = s.d_model, q = int64_t{s.n_heads} * s.d_head, kv = int64_t{s.n_kv_heads} * s.d_head;
  const int64_t width = s.moe.d_expert, stacked = s.moe.n_experts * width;
  b.ends("transformer.wte", "lm_head");
  b.norm(b.weights().final_norm, "transformer.norm_f", d);
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "transformer.blocks." + std::to_string(i) + ".", a = p + "norm_attn_norm.", f = p + "ffn.";
    b.norm(w.attn_norm, a + "norm_1", d);
    b.norm(w.ffn_norm, a + "norm_2", d);
    const Shape fused = {q + 2 * kv, d};
    b.linear(w.wq, a + "attn.Wqkv", q, d, false, {.stored = fused});
    b.linear(w.wk, a + "attn.Wqkv", kv, d, false, {.first = q, .stored = fused});
    b.linear(w.wv, a + "attn.Wqkv", kv, d, false, {.first = q + kv, .stored = fused});
    b.linear(w.wo, a + "attn.out_proj", d, q);
    b.router(w.w_router, f + "router.layer", s.moe.n_experts, d);
    w.experts.resize(s.moe.n_experts);
    const TensorView* w2 = b.expect(f + "experts.mlp.w2", {stacked, d});
    for (int e = 0; e < s.moe.n_experts; ++e) {
      const Rows rows = {.first = e * width, .stored = {stacked, d}};
      b.matrix(w.experts[e].gate.w, f + "experts.mlp.w1", width, d, rows);
      b.matrix(w.experts[e].up.w, f + "experts.mlp.v1", width, d, rows);
      // w2 is kept as [width, d_model] per expert and multiplied from the left: our [outputs, inputs] is its transpose.
      if (w2 != nullptr) b.matrix(w.experts[e].down.w, transposed_rows(*w2, e * width, width), d, width);
    }
  }
}

}  // namespace engine
