// Binds the tensors of a checkpoint to a model's weights, checks all shapes, and converts what cannot be used in place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/matrix_source.h"
#include "model/model.h"

namespace engine {

/// Which rows of a stored tensor are meant, where several matrices were stored as one (q, k and v; gate and up; all experts).
struct Rows {
  int64_t first = 0;
  int64_t step = 1;
  Shape stored;  // the whole tensor's shape; empty: the matrix is the whole tensor
};

class Binder {
 public:
  Binder(Model& model, const Checkpoint& checkpoint, const LoadOptions& options);

  const ModelSpec& spec() const { return model_.spec_; }
  Weights& weights() { return model_.weights_; }
  LayerWeights& layer(int i) { return model_.weights_.layers[i]; }

  /// A matrix [n_rows, n_cols] from the tensor `name`.
  void matrix(kernels::Matrix& out, const std::string& name, int64_t n_rows, int64_t n_cols, const Rows& rows = {});
  /// A matrix from any source (null: a problem was noted already).
  void matrix(kernels::Matrix& out, std::unique_ptr<MatrixSource> source, int64_t n_rows, int64_t n_cols);

  /// `prefix`.weight and, if `bias`, `prefix`.bias.
  void linear(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias = false, const Rows& rows = {});

  /// n elements of a tensor, widened to float32, `add` added to each; rows: of a tensor of another shape, first and step in elements.
  const float* vector(const std::string& name, int64_t n, float add = 0, const Rows& rows = {});
  /// The vectors first + "0" + last, first + "1" + last, ... of n elements each, one after another.
  const float* joined_vectors(const std::string& first, const std::string& last, int n_vectors, int64_t n);
  /// `prefix`.weight (plus one where the spec says so) and, if `bias`, `prefix`.bias.
  void norm(NormWeights& out, const std::string& prefix, int64_t n, bool bias = false);

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  /// The tensor if it is there with this shape and one of the float types (or exactly `dtype`); otherwise notes a problem, returns null.
  const TensorView* expect(const std::string& name, const Shape& shape);
  const TensorView* expect(const std::string& name, const Shape& shape, DType dtype);

  /// After all calls: throws one Error that lists everything missing or mis-shaped; then converts.
  void finish();

 private:
  struct Conversion {
    kernels::Matrix* out;
    std::unique_ptr<MatrixSource> source;
  };
  void convert(const Conversion& job);
  std::byte* own(size_t n_bytes);

  Model& model_;
  const Checkpoint& checkpoint_;
  const LoadOptions& options_;
  std::vector<std::string> problems_;
  std::vector<Conversion> conversions_;
  std::byte* chunk_next_ = nullptr;  // for small vectors
  size_t chunk_left_ = 0;
};

}  // namespace engine
