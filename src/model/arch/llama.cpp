// Llama (1 to 3.3, and the many models that use its code) and Mistral.
#include "model/arch/families.h"

#include "model/binder.h"

namespace engine {

void parse_llama(const ConfigReader& config, ModelSpec& spec) {
  parse_common(config, spec);
  if (spec.d_ff == 0) config.fail("intermediate_size", "a whole number above 0");
  // LlamaConfig has pretraining_tp: values above 1 only cut the matmuls into slices, the result is the same.
  spec.ropes.push_back(parse_rope(config, spec.d_head, spec.max_positions));
}

void bind_llama_family(Binder& binder, const ConfigReader& config) {
  const bool attention_bias = config.boolean_or("attention_bias", false);
  bind_llama(binder, {.qkv_bias = attention_bias, .o_bias = attention_bias, .mlp_bias = config.boolean_or("mlp_bias", false)});
}

void parse_mistral(const ConfigReader& config, ModelSpec& spec) {
  parse_llama(config, spec);
  const int window = static_cast<int>(config.integer_or("sliding_window", 0, 1, 1 << 30));
  for (LayerSpec& layer : spec.layers) layer.window = window;
}

void bind_mistral(Binder& binder, const ConfigReader&) { bind_llama(binder, {}); }

}  // namespace engine
