// An executable specification of the model families: logits of whole sequences in double precision, written from the papers and from
// Hugging Face's semantics and not from src/model, which it is there to judge. Slow and simple.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/safetensors.h"
#include "blocks.h"

namespace oracle {

using Ids = std::span<const int32_t>;

/// The tensors of a checkpoint whose names begin with a prefix, widened to double.
class Scope {
 public:
  Scope(const engine::Checkpoint& checkpoint, std::string prefix = {}) : checkpoint_(&checkpoint), prefix_(std::move(prefix)) {}
  Scope operator/(const std::string& part) const { return {*checkpoint_, prefix_ + part + "."}; }
  Scope operator/(size_t index) const { return *this / std::to_string(index); }

  bool has(const std::string& name) const { return checkpoint_->find(prefix_ + name) != nullptr; }
  Vector vector(const std::string& name) const;
  Vector vector_or_empty(const std::string& name) const { return has(name) ? vector(name) : Vector(); }
  Matrix matrix(const std::string& name) const;
  Cube cube(const std::string& name) const;
  const engine::TensorView& raw(const std::string& name) const;

  /// The linear layer `name`: NAME.weight, and NAME.bias where the checkpoint has one.
  Matrix linear(const std::string& name, const Matrix& x) const {
    return oracle::linear(x, matrix(name + ".weight"), vector_or_empty(name + ".bias"));
  }

 private:
  std::vector<double> values(const std::string& name, size_t n_dims, engine::Shape* shape) const;

  const engine::Checkpoint* checkpoint_;
  std::string prefix_;
};

/// config.json. A key that is missing or null has the default that Transformers' configuration class gives it.
class Config {
 public:
  explicit Config(engine::Json json) : json_(std::move(json)) {}
  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  double number(const std::string& key, double otherwise) const { return has(key) ? json_[key].get<double>() : otherwise; }
  size_t size(const std::string& key, size_t otherwise) const { return has(key) ? json_[key].get<size_t>() : otherwise; }
  size_t size(const std::string& key) const { return json_.at(key).get<size_t>(); }
  bool flag(const std::string& key, bool otherwise) const { return has(key) ? json_[key].get<bool>() : otherwise; }
  std::string text(const std::string& key, const std::string& otherwise) const {
    return has(key) ? json_[key].get<std::string>() : otherwise;
  }
  const engine::Json& json() const { return json_; }

 private:
  engine::Json json_;
};

/// The rotary embedding that config.json asks for, for heads of which n_rot channels turn, in a sequence of n_tokens tokens.
/// Reads rope_theta and rope_scaling (Transformers 4) or rope_parameters (Transformers 5).
Rope make_rope(const Config& config, size_t n_rot, size_t n_tokens);
/// The same from one set of parameters (for families with several), with the theta that holds where they name none.
Rope make_rope(const Config& config, const engine::Json& parameters, double theta, size_t n_rot, size_t n_tokens);

/// The part of each head's channels that rotates: partial_rotary_factor beside or inside the rotary parameters.
double partial_rotary_factor(const Config& config, double otherwise);

/// A model: its family's forward pass is one function in dense.cpp, experts.cpp or others.cpp.
class Oracle {
 public:
  explicit Oracle(const std::string& directory);
  /// [T, vocab_size]
  Matrix logits(Ids ids) const;

 private:
  using Forward = Matrix (*)(const Config&, const Scope&, Ids);

  Config config_;
  engine::Checkpoint checkpoint_;
  std::string prefix_;  // of all tensors' names
  Forward forward_;
};

}  // namespace oracle
