// Qwen2 / Qwen2.5 (biases on q, k, v) and Qwen3 (norms on q and k instead).
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {

int parse_qwen_window(const ConfigReader& config) {
  return config.boolean_or("use_sliding_window", false) ? static_cast<int>(config.integer_or("sliding_window", 4096, 1, 1 << 30)) : 0;
}

void parse_qwen2(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  const int window = parse_qwen_window(config);
  if (window == 0 || parse_layer_types(config, spec, window)) return;
  const int64_t first = config.integer_or("max_window_layers", 28, 0, 1 << 20);
  for (int64_t i = first; i < spec.n_layers; ++i) spec.layers[i].window = window;
}

void bind_qwen2(Binder& binder, const ConfigReader&) { bind_llama(binder, {.qkv_bias = true}); }

void parse_qwen3(const ConfigReader& config, ModelSpec& spec) {
  parse_qwen2(config, spec);
  spec.qk_norm = QkNorm::per_head;
}

void bind_qwen3(Binder& binder, const ConfigReader& config) {
  const bool bias = config.boolean_or("attention_bias", false);
  bind_llama(binder, {.qkv_bias = bias, .o_bias = bias});
}

}  // namespace engine
