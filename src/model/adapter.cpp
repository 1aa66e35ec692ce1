#include "model/adapter.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "model/arch/family.h"

namespace engine {
namespace {

constexpr char prefix[] = "base_model.model.";

std::string config_path(const std::string& directory) { return directory + "/adapter_config.json"; }

Json read_config(const std::string& directory) {
  struct stat info;
  if (stat(config_path(directory).c_str(), &info) != 0) {
    throw Error(directory + ": expected a LoRA adapter directory, found no adapter_config.json");
  }
  if (stat((directory + "/adapter_model.safetensors").c_str(), &info) != 0) {
    throw Error(directory + ": expected adapter_model.safetensors, found none",
                "an adapter_model.bin can be converted with PEFT: PeftModel.from_pretrained(BASE, DIR).save_pretrained(DIR)");
  }
  Json json = read_json_file(config_path(directory), size_t{16} << 20);
  if (!json.is_object()) throw Error(config_path(directory) + ": expected a JSON object");
  return json;
}

/// A value that asks for nothing: null, false, "", [], {}.
bool is_off(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) || ((value.is_structured() || value.is_string()) && value.empty());
}

/// Options that would make the update something else than scale * B A, by the name PEFT gives them.
void refuse_other_kinds(const ConfigReader& config) {
  if (config.string_or("peft_type", "") != "LORA") config.fail("peft_type", "LORA (other kinds of adapters are not supported)");
  static constexpr std::pair<const char*, const char*> others[] = {
      {"use_dora", "DoRA"}, {"use_qalora", "QALoRA"}, {"use_bdlora", "block-diagonal LoRA"}, {"alora_invocation_tokens", "activated LoRA"},
      {"lora_bias", "a bias of the update"}, {"modules_to_save", "whole modules beside the updates"},
      {"trainable_token_indices", "trained single tokens"}, {"target_parameters", "updates of parameters that are no modules"},
      {"layer_replication", "repeated layers"}, {"megatron_config", "Megatron's layers"}, {"arrow_config", "Arrow"},
      {"monteclora_config", "MonteCLoRA"}, {"velora_config", "VeLoRA"}};
  for (const auto& [key, name] : others) {
    if (config.has(key) && !is_off(config.json().at(key))) config.fail(key, std::string("nothing (") + name + ": not supported)");
  }
  if (config.string_or("bias", "none") != "none") config.fail("bias", "none (trained biases are not supported)");
  // These methods start from changed base weights; the update alone is not what was trained.
  if (!config.has("init_lora_weights") || config.json().at("init_lora_weights").is_boolean()) return;
  const std::string start = config.string_or("init_lora_weights", "");
  if (start != "gaussian" && start != "eva" && start != "orthogonal") {
    config.fail("init_lora_weights", "true, false, gaussian, eva or orthogonal (others change the base model)");
  }
}

/// PEFT's rule for rank_pattern and alpha_pattern: a key is a name or its end after a dot, "^" ties it to the beginning. It may be any regular
/// expression; names are all that is written in practice.
bool matches(const std::string& pattern, const std::string& module) {
  if (pattern.starts_with('^')) return module == pattern.substr(1);
  return module == pattern || module.ends_with("." + pattern);
}

void check_patterns(const ConfigReader& config, const char* key, bool ranks) {
  if (!config.has(key)) return;
  for (const auto& [pattern, value] : config.object(key).json().items()) {
    if (pattern.find_first_of("\\*+?()[]{}|$") != std::string::npos) config.fail(key, "names of modules, not regular expressions");
    if (ranks) config.object(key).integer(pattern, 1, 65536);
    else config.object(key).number(pattern);
  }
}

/// A matrix and its update, B A; of an embedding A^T B^T.
class MergedRows : public MatrixSource {
 public:
  MergedRows(std::unique_ptr<MatrixSource> base, const TensorView& a, const TensorView& b, bool embedding, float scale, int64_t n_cols)
      : base_(std::move(base)), a_(a), b_(b), embedding_(embedding), scale_(scale), rank_(a.shape[0]), n_cols_(n_cols) {}
  void read_row(int64_t row, float* out) const override {
    base_->read_row(row, out);
    const float* line = lines();
    for (int64_t k = 0; k < rank_; ++k, line += n_cols_) {
      float factor;
      if (embedding_) read(a_, k * a_.shape[1] + row, 1, &factor);  // [r, n_rows]
      else read(b_, row * rank_ + k, 1, &factor);                   // [n_rows, r]
      factor *= scale_;
      for (int64_t c = 0; c < n_cols_; ++c) out[c] += factor * line[c];
    }
  }
  uint64_t n_bytes() const override { return base_->n_bytes(); }
  /// As the base model is stored, like PEFT's merge_and_unload; integers give way to bfloat16.
  kernels::Format natural_format() const override {
    return kernels::is_packed(base_->natural_format()) ? kernels::Format::bf16 : base_->natural_format();
  }

 private:
  /// The right factor [r, n_cols], widened when it is first needed: sources wait long for their turn.
  const float* lines() const {
    const std::lock_guard lock(mutex_);
    if (!lines_.empty()) return lines_.data();
    lines_.resize(static_cast<size_t>(rank_ * n_cols_));
    if (!embedding_) {
      read(a_, 0, rank_ * n_cols_, lines_.data());
    } else {  // b [n_cols, r]
      std::vector<float> stored(lines_.size());
      read(b_, 0, rank_ * n_cols_, stored.data());
      for (int64_t c = 0; c < n_cols_; ++c) {
        for (int64_t k = 0; k < rank_; ++k) lines_[static_cast<size_t>(k * n_cols_ + c)] = stored[static_cast<size_t>(c * rank_ + k)];
      }
    }
    return lines_.data();
  }

  static void read(const TensorView& t, int64_t first, int64_t n, float* out) {
    const size_t size = static_cast<size_t>(dtype_bits(t.dtype) / 8);
    to_float({t.dtype, {n}, t.data + static_cast<size_t>(first) * size, static_cast<size_t>(n) * size}, out);
  }

  std::unique_ptr<MatrixSource> base_;
  TensorView a_, b_;
  bool embedding_;
  float scale_;
  int64_t rank_, n_cols_;
  mutable std::mutex mutex_;
  mutable std::vector<float> lines_;
};

bool is_plain_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f64; }

std::string module_name(const std::string& weight) { return weight.ends_with(".weight") ? weight.substr(0, weight.size() - 7) : weight; }

}  // namespace

Adapter::Adapter(const std::string& directory)
    : directory_(directory), config_(read_config(directory)), file_(directory + "/adapter_model.safetensors") {
  const ConfigReader config(config_, config_path(directory));
  refuse_other_kinds(config);
  rank_ = static_cast<double>(config.integer("r", 1, 65536));
  alpha_ = config.number("lora_alpha");
  root_scaled_ = config.boolean_or("use_rslora", false);
  check_patterns(config, "rank_pattern", true);
  check_patterns(config, "alpha_pattern", false);
  // fan_in_fan_out is for layers stored transposed (GPT-2's Conv1D); no family here has one, and PEFT drops it for the others.
  config.boolean_or("fan_in_fan_out", false);
  for (const auto& [name, tensor] : file_.tensors()) left_.insert(name);
}

bool Adapter::has(const std::string& name) const {
  const std::string module = prefix + module_name(name);
  return file_.tensors().contains(module + ".lora_A.weight") || file_.tensors().contains(module + ".lora_embedding_A");
}

double Adapter::pattern_or(const char* key, const std::string& module, double otherwise) const {
  if (!config_.contains(key) || !config_.at(key).is_object()) return otherwise;
  for (const auto& [pattern, value] : config_.at(key).items()) {
    if (matches(pattern, module)) return value.get<double>();
  }
  return otherwise;
}

std::unique_ptr<MatrixSource> Adapter::merged(std::unique_ptr<MatrixSource> base, const std::string& name, int64_t n_rows, int64_t n_cols,
                                              std::string* problem) {
  if (!has(name)) return base;
  const std::string module = module_name(name), full = prefix + module;
  const bool embedding = file_.tensors().contains(full + ".lora_embedding_A");
  const std::string a_name = full + (embedding ? ".lora_embedding_A" : ".lora_A.weight");
  const std::string b_name = full + (embedding ? ".lora_embedding_B" : ".lora_B.weight");
  const auto b = file_.tensors().find(b_name);
  if (b == file_.tensors().end()) {
    *problem = directory_ + ": " + b_name + " is missing";
    return nullptr;
  }
  const TensorView& a = file_.tensors().at(a_name);
  const double rank = pattern_or("rank_pattern", module, rank_);
  const double alpha = pattern_or("alpha_pattern", module, alpha_);
  const auto r = static_cast<int64_t>(rank);
  const Shape a_shape = {r, embedding ? n_rows : n_cols}, b_shape = {embedding ? n_cols : n_rows, r};
  for (const auto& [tensor_name, tensor, shape] : {std::tuple{&a_name, &a, &a_shape}, {&b_name, &b->second, &b_shape}}) {
    if (tensor->shape == *shape && is_plain_float(tensor->dtype)) continue;
    *problem = directory_ + ": " + *tensor_name + " expected " + shape_string(*shape) + " of F32, BF16 or F16, got " +
               shape_string(tensor->shape) + " of " + std::string(dtype_name(tensor->dtype));
    return nullptr;
  }
  left_.erase(a_name);
  left_.erase(b_name);
  ++n_merged_;
  const double scale = alpha / (root_scaled_ ? std::sqrt(rank) : rank);
  return std::make_unique<MergedRows>(std::move(base), a, b->second, embedding, static_cast<float>(scale), n_cols);
}

void Adapter::check_all_taken() const {
  if (!left_.empty()) {
    throw Error(directory_ + ": " + std::to_string(left_.size()) + " tensors of the adapter fit no matrix of the model, the first is " + *left_.begin(),
                "the adapter is for another model, or for parts of it that are not supported (" +
                    ConfigReader(config_, "").string_or("base_model_name_or_path", "its base is not named") + ")");
  }
  if (n_merged_ == 0) throw Error(directory_ + ": the adapter has no tensors");
}

}  // namespace engine
