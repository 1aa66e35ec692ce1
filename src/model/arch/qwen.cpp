// Qwen2 / Qwen2.5 (biases on q, k, v) and Qwen3 (norms on q and k instead).
#include "model/arch/families.h"
#include "model/binder.h"

namespace engine {
namespace {

/// The window counts only with use_sliding_window, and then from layer max_window_layers on. (Qwen2.5 configs carry a sliding_window that is
/// switched off: honouring it would change every answer longer than it.)
void parse_windows(const ConfigReader& config, ModelSpec& spec) {
  if (!config.boolean_or("use_sliding_window", false)) return;
  const int window = static_cast<int>(config.integer_or("sliding_window", 4096, 1, 1 << 30));
  if (parse_layer_types(config, spec, window)) return;
  const int64_t first = config.integer_or("max_window_layers", 28, 0, 1 << 20);
  for (int64_t i = first; i < spec.n_layers; ++i) spec.layers[i].window = window;
}

}  // namespace

void parse_qwen2(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  parse_windows(config, spec);
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
