// GPT-OSS: attention sinks, alternating windows, YaRN, experts with biases and a clamped SwiGLU, in MXFP4 (modeling_gpt_oss.py).
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {
namespace {

constexpr int mxfp4_block = 32;

/// One projection of all experts: MXFP4 (`name`_blocks, `name`_scales: rows are outputs) or plain [experts, inputs, outputs].
class ExpertStack {
 public:
  ExpertStack(Binder& b, const ConfigReader& config, const std::string& name, int64_t n_experts, int64_t n_out, int64_t n_in)
      : n_out_(n_out), n_in_(n_in) {
    if (b.has(name + "_blocks")) {
      if (n_in % mxfp4_block != 0) config.fail("hidden_size and intermediate_size", "multiples of 32 with MXFP4 experts");
      const int64_t n_blocks = n_in / mxfp4_block;
      blocks_ = b.expect(name + "_blocks", {n_experts, n_out, n_blocks, mxfp4_block / 2}, DType::u8);
      scales_ = b.expect(name + "_scales", {n_experts, n_out, n_blocks}, DType::u8);
    } else {
      plain_ = b.expect(name, {n_experts, n_in, n_out});
    }
  }
  /// Outputs first, first + step, ... of expert e, n_rows of them; null if a tensor was missing.
  std::unique_ptr<MatrixSource> rows(int64_t e, int64_t first, int64_t step) const {
    if (plain_ != nullptr) return transposed_rows(*plain_, e * n_in_, n_in_, first, step);
    if (blocks_ == nullptr || scales_ == nullptr) return nullptr;
    return mxfp4_rows(*blocks_, *scales_, e * n_out_ + first, step);
  }

 private:
  int64_t n_out_, n_in_;
  const TensorView *blocks_ = nullptr, *scales_ = nullptr, *plain_ = nullptr;
};

}  // namespace

void parse_gpt_oss(const ConfigReader& config, ModelSpec& spec) {
  parse_common(config, spec);
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  if (!parse_layer_types(config, spec, window)) {
    for (int i = 0; i < spec.n_layers; i += 2) spec.layers[i].window = window;
  }
  Json json = config.json();
  if (!json.contains("rope_parameters") && !json.contains("rope_scaling")) {  // GptOssConfig's own
    json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 32}, {"truncate", false}, {"original_max_position_embeddings", 4096}};
  }
  spec.ropes.push_back(parse_rope(ConfigReader(json, config.path()), spec.d_head, spec.max_positions));
  if (spec.d_ff == 0) config.fail("intermediate_size", "a whole number above 0");
  parse_moe(config, spec, "num_local_experts", config.has("num_experts_per_tok") ? "num_experts_per_tok" : "experts_per_token",
            spec.d_ff);
  spec.moe.router = RouterKind::topk_softmax;
  spec.swiglu_limit = static_cast<float>(config.positive_or("swiglu_limit", 7.0));
  spec.sinks = true;
}

void bind_gpt_oss(Binder& b, const ConfigReader& config) {
  const ModelSpec& s = b.spec();
  const bool bias = config.boolean_or("attention_bias", true);
  const int64_t d = s.d_model, n = s.moe.n_experts, width = s.moe.d_expert;
  bind_llama(b, {.qkv_bias = bias, .o_bias = bias});
  for (int i = 0; i < s.n_layers; ++i) {
    LayerWeights& w = b.layer(i);
    const std::string p = "model.layers." + std::to_string(i) + ".", m = p + "mlp.experts.";
    w.sinks = b.vector(p + "self_attn.sinks", s.n_heads);
    b.router(w.w_router, p + "mlp.router", n, d, true);
    const ExpertStack gate_up(b, config, m + "gate_up_proj", n, 2 * width, d), down(b, config, m + "down_proj", n, d, width);
    w.experts.resize(n);
    for (int64_t e = 0; e < n; ++e) {
      ExpertWeights& x = w.experts[e];
      // Gate rows are the even ones, up rows the odd ones.
      b.matrix(x.gate.w, gate_up.rows(e, 0, 2), width, d);
      b.matrix(x.up.w, gate_up.rows(e, 1, 2), width, d);
      b.matrix(x.down.w, down.rows(e, 0, 1), d, width);
      x.gate.bias = b.vector(m + "gate_up_proj_bias", width, 0, {.first = e * 2 * width, .step = 2, .stored = {n, 2 * width}});
      x.up.bias = b.vector(m + "gate_up_proj_bias", width, 0, {.first = e * 2 * width + 1, .step = 2, .stored = {n, 2 * width}});
      x.down.bias = b.vector(m + "down_proj_bias", d, 0, {.first = e * d, .stored = {n, d}});
    }
  }
}

}  // namespace engine
