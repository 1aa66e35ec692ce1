#include "random_model.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/safetensors.h"

namespace engine::test {

namespace {

/// Draws tensors and keeps their bytes until they are written.
class Writer {
 public:
  Writer(DType dtype, uint64_t seed) : dtype_(dtype), random_(seed) {}

  void add(const std::string& name, Shape shape, double std, double mean = 0) {
    std::normal_distribution<double> normal(mean, std);
    const TensorView view{dtype_, std::move(shape)};
    const size_t n = static_cast<size_t>(view.n_elements());
    std::vector<std::byte>& bytes = data_.emplace_back();
    bytes.resize(n * dtype_bits(dtype_) / 8);
    for (size_t i = 0; i < n; ++i) {
      const float value = static_cast<float>(normal(random_));
      const uint16_t half = dtype_ == DType::bf16 ? float_to_bf16(value) : float_to_f16(value);
      if (dtype_ == DType::f32) std::memcpy(bytes.data() + 4 * i, &value, 4);
      else std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
    tensors_.push_back({name, {dtype_, view.shape, bytes.data(), bytes.size()}});
  }

  void linear(const std::string& prefix, int64_t n_out, int64_t n_in, double gain, bool bias) {
    add(prefix + ".weight", {n_out, n_in}, gain / std::sqrt(static_cast<double>(n_in)));
    if (bias) add(prefix + ".bias", {n_out}, 0.3);
  }

  void write(const std::string& path) const { write_safetensors(path, tensors_, {{"format", "pt"}}); }

 private:
  DType dtype_;
  std::mt19937_64 random_;
  std::vector<std::vector<std::byte>> data_;  // inner vectors keep their place when the outer one grows
  std::vector<NamedTensor> tensors_;
};

}  // namespace

void write_random_model(const std::string& directory, const Json& config, DType dtype, uint64_t seed) {
  std::ofstream(directory + "/config.json") << dump_json(config, 1);
  const std::string type = config.at("model_type").get<std::string>();
  const int64_t d_model = config.at("hidden_size"), n_heads = config.at("num_attention_heads"), d_ff = config.at("intermediate_size");
  const int64_t n_kv = config.value("num_key_value_heads", n_heads), d_head = config.value("head_dim", d_model / n_heads);
  const int64_t vocab = config.at("vocab_size"), n_layers = config.at("num_hidden_layers");
  const bool tied = config.value("tie_word_embeddings", false);
  const bool attention_bias = config.value("attention_bias", false), mlp_bias = config.value("mlp_bias", false);
  const bool qkv_bias = attention_bias || type == "qwen2";

  Writer w(dtype, seed);
  constexpr double embedding_std = 0.02;
  w.add("model.embed_tokens.weight", {vocab, d_model}, embedding_std);
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".", attn = layer + "self_attn.", mlp = layer + "mlp.";
    w.add(layer + "input_layernorm.weight", {d_model}, 0.2, 1);
    w.add(layer + "post_attention_layernorm.weight", {d_model}, 0.2, 1);
    w.linear(attn + "q_proj", n_heads * d_head, d_model, 1.4, qkv_bias);  // scores with a standard deviation of about 2
    w.linear(attn + "k_proj", n_kv * d_head, d_model, 1.4, qkv_bias);
    w.linear(attn + "v_proj", n_kv * d_head, d_model, 1, qkv_bias);
    w.linear(attn + "o_proj", d_model, n_heads * d_head, 1, attention_bias);
    if (type == "qwen3") {
      w.add(attn + "q_norm.weight", {d_head}, 0.2, 1.4);
      w.add(attn + "k_norm.weight", {d_head}, 0.2, 1.4);
    }
    w.linear(mlp + "gate_proj", d_ff, d_model, 1, mlp_bias);
    w.linear(mlp + "up_proj", d_ff, d_model, 1, mlp_bias);
    w.linear(mlp + "down_proj", d_model, d_ff, 1, mlp_bias);
  }
  const double lift = tied ? 3 / (embedding_std * std::sqrt(static_cast<double>(d_model))) : 1;
  w.add("model.norm.weight", {d_model}, 0.2 * lift, lift);
  if (!tied) w.linear("lm_head", vocab, d_model, 3, false);
  w.write(directory + "/model.safetensors");
}

}  // namespace engine::test
