// A model family: how its config.json becomes a ModelSpec and where its tensors are. One row of a table each.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/spec.h"

namespace engine {

class Binder;

/// Typed access to config.json. Every getter throws Error `<path>: <key>: expected X, got Y`.
class ConfigReader {
 public:
  ConfigReader(const Json& config, std::string path) : config_(config), path_(std::move(path)) {}

  bool has(std::string_view key) const;  // present and not null
  const Json& json() const { return config_; }
  const std::string& path() const { return path_; }
  /// A nested object (rope_scaling, ffn_config); errors name it.
  ConfigReader object(std::string_view key) const;

  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t integer_or(std::string_view key, int64_t fallback, int64_t low, int64_t high) const;
  double number(std::string_view key) const;  // finite
  double number_or(std::string_view key, double fallback) const;
  double positive(std::string_view key) const;
  double positive_or(std::string_view key, double fallback) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  std::string string_or(std::string_view key, std::string_view fallback) const;
  std::vector<double> numbers(std::string_view key) const;

  /// For options that this family has only in one form: throws if the key is present with another value.
  void only(std::string_view key, const Json& value) const;
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

 private:
  const Json* get(std::string_view key) const;
  const Json& config_;
  std::string path_;
};

struct Family {
  const char* architecture;  // config.json's architectures[0]
  const char* model_type;    // used when architectures is missing
  void (*parse)(const ConfigReader& config, ModelSpec& spec);
  void (*bind)(Binder& binder, const ConfigReader& config);
  /// JSON of the keys that its configuration class in Transformers has a default for which is not parse_common's; files may leave them out.
  /// Taken for keys that are absent, not for null.
  const char* defaults = "{}";
};

/// All families, in the order people are told them.
std::span<const Family> families();

/// Architectures that put parts for images beside a text model of one of the families. The text model's configuration is their text_config;
/// the rest is not loaded.
struct Wrapper {
  const char* architecture;
  const char* model_type;  // of the text model
};
std::span<const Wrapper> wrappers();

// --- shared by the families' files --------------------------------------------------------------------------------------

/// The keys that nearly all families share: sizes, norm eps, positions, special ids, tied embeddings, one rope for all layers.
void parse_common(const ConfigReader& config, ModelSpec& spec);

/// Activation by Hugging Face's name (hidden_act): silu/swish, gelu, gelu_new/gelu_pytorch_tanh/gelu_fast, relu, relu2.
kernels::Activation parse_activation(const ConfigReader& config, std::string_view key, std::string_view fallback);

/// Frequencies from rope_theta / rope_scaling / rope_parameters, types default, linear, dynamic, llama3, yarn and longrope, as in Transformers'
/// modeling_rope_utils.py. Any other type is refused.
RopeSpec parse_rope(const ConfigReader& config, int n_rot, int64_t max_positions, double default_theta = 10000.0);

/// Rotated channels of a head: partial_rotary_factor (of the config or its rope_parameters) times d_head, an even number.
int parse_rotary_width(const ConfigReader& config, int d_head, double default_factor);

/// Sliding windows and chunks by layer_types ("sliding_attention", "chunked_attention", "full_attention") where the config has it; true
/// if it did. A family without one of the two passes 0 for it.
bool parse_layer_types(const ConfigReader& config, ModelSpec& spec, int window, int chunk = 0);

/// Which layers have a rope: no_rope_layers (despite its name 1 where there is one), or all but every no_rope_layer_interval-th.
void parse_no_rope_layers(const ConfigReader& config, ModelSpec& spec);

/// Checks and sets n_used <= n_experts etc. from the given keys.
void parse_moe(const ConfigReader& config, ModelSpec& spec, const char* n_experts_key, const char* n_used_key, int64_t d_expert);

/// Binds the tensor names of Llama (model.layers.N.self_attn.q_proj, ...), with biases where the flags say.
struct LlamaNames {
  bool qkv_bias = false, o_bias = false, mlp_bias = false, norm_bias = false;
};
void bind_llama(Binder& binder, const LlamaNames& names);
void bind_llama_ends(Binder& binder, const LlamaNames& names);  // embedding, output, final norm
void bind_llama_feed_forward(Binder& binder, int layer, const LlamaNames& names);
void bind_llama_attention(Binder& binder, int layer, const LlamaNames& names);

}  // namespace engine
