// A LoRA adapter directory as PEFT writes it (adapter_config.json, adapter_model.safetensors), merged into the weights while they are
// loaded: W + scale * B A.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "base/json.h"
#include "base/safetensors.h"
#include "model/matrix_source.h"

namespace engine {

class Adapter {
 public:
  /// Reads the directory; throws Error for kinds other than plain LoRA and for options that would change what is merged.
  explicit Adapter(const std::string& directory);

  /// `base` [n_rows, n_cols], the matrix `name` of the checkpoint, with its update; `base` itself if there is none. `problem` gets text
  /// and null is returned where the shapes do not fit. The adapter outlives the result.
  std::unique_ptr<MatrixSource> merged(std::unique_ptr<MatrixSource> base, const std::string& name, int64_t n_rows, int64_t n_cols,
                                       std::string* problem);
  bool has(const std::string& name) const;
  int n_merged() const { return n_merged_; }
  /// Throws if there are tensors that no matrix took.
  void check_all_taken() const;

 private:
  double pattern_or(const char* key, const std::string& module, double otherwise) const;

  std::string directory_;
  double rank_ = 1, alpha_ = 1;
  bool root_scaled_ = false;  // rsLoRA: alpha over the rank's root
  Json config_;
  SafetensorsFile file_;
  std::set<std::string> left_;  // names of tensors that nobody has asked for yet
  int n_merged_ = 0;
};

}  // namespace engine
