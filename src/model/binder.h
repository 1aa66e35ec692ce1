// Binds the tensors of a checkpoint to a model's weights, checks all shapes, and converts what cannot be used in place.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace engine {

/// Which rows of a stored tensor are meant, where several matrices were stored as one (q, k and v; gate and up).
struct Rows {
  int64_t first = 0;
  int64_t total = 0;  // of the stored tensor; 0: the matrix is the whole tensor
};

class Binder {
 public:
  Binder(Model& model, const Checkpoint& checkpoint, const LoadOptions& options);

  const ModelSpec& spec() const { return model_.spec_; }
  Weights& weights() { return model_.weights_; }
  LayerWeights& layer(int i) { return model_.weights_.layers[i]; }

  /// A matrix [n_rows, n_cols]: rows [rows.first, rows.first + n_rows) of the tensor `name`, which has rows.total rows (0: n_rows).
  void matrix(kernels::Matrix& out, const std::string& name, int64_t n_rows, int64_t n_cols, Rows rows = {});

  /// `prefix`.weight and, if `bias`, `prefix`.bias.
  void linear(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias = false, Rows rows = {});

  /// A vector widened to float32, `add` added to each element.
  const float* vector(const std::string& name, int64_t n, float add = 0, Rows rows = {});
  /// `prefix`.weight (plus one where the spec says so) and, if `bias`, `prefix`.bias.
  void norm(NormWeights& out, const std::string& prefix, int64_t n, bool bias = false);

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }

  /// After all calls: throws one Error that lists everything missing or mis-shaped; then converts and counts.
  void finish();

 private:
  struct Conversion {
    kernels::Matrix* out;
    TensorView rows;  // just the rows wanted
    std::string name;
  };
  const TensorView* expect(const std::string& name, const Shape& shape);
  void convert(const Conversion& job, kernels::Format format, uint64_t total_bytes);
  std::byte* own(size_t n_bytes);

  Model& model_;
  const Checkpoint& checkpoint_;
  const LoadOptions& options_;
  std::vector<std::string> problems_;
  std::vector<Conversion> conversions_;
  uint64_t converted_bytes_ = 0;
};

}  // namespace engine
