// Binds the tensors of a checkpoint to a model's weights, checks all shapes, and converts what cannot be used in place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/matrix_source.h"
#include "model/model.h"

namespace engine {

class Adapter;
class Importer;

/// Which rows of a stored tensor are meant, where several matrices were stored as one (q, k and v; gate and up; all experts).
struct Rows {
  int64_t first = 0;
  int64_t step = 1;
  Shape stored;  // the whole tensor's shape; empty: the matrix is the whole tensor
};

/// How much a matrix may be quantized.
enum class Precision : uint8_t {
  weight,  // as the load options say
  output,  // the output matrix: int8 even where int4 is asked for, since every token's probabilities hang on it
  exact,   // as stored: routers and gates (a small error changes which experts run), pure look-up tables
};

class Binder {
 public:
  /// `importer` reads the matrices that are stored in a foreign format, `adapter` has updates of some; both may be null.
  Binder(Model& model, const Checkpoint& checkpoint, const LoadOptions& options, const Importer* importer = nullptr, Adapter* adapter = nullptr);

  const ModelSpec& spec() const { return model_.spec_; }
  Weights& weights() { return model_.weights_; }
  LayerWeights& layer(int i) { return model_.weights_.layers[i]; }

  /// A matrix [n_rows, n_cols] from the tensor `name`.
  void matrix(kernels::Matrix& out, const std::string& name, int64_t n_rows, int64_t n_cols, const Rows& rows = {},
              Precision precision = Precision::weight);
  /// A matrix from any source (null: a problem was noted already).
  void matrix(kernels::Matrix& out, std::unique_ptr<MatrixSource> source, int64_t n_rows, int64_t n_cols,
              Precision precision = Precision::weight);

  /// `prefix`.weight and, if `bias`, `prefix`.bias.
  void linear(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias = false, const Rows& rows = {},
              Precision precision = Precision::weight);
  /// A linear that stays exact: a router, a shared expert's gate.
  void router(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias = false) {
    linear(out, prefix, n_out, n_in, bias, {}, Precision::exact);
  }
  /// The token embedding `embedding`.weight and, unless tied, the output matrix `output`.weight.
  void ends(const std::string& embedding, const std::string& output);

  /// n elements of a tensor, widened to float32, `add` added to each; rows: of a tensor of another shape, first and step in elements.
  const float* vector(const std::string& name, int64_t n, float add = 0, const Rows& rows = {});
  /// The vectors first + "0" + last, first + "1" + last, ... of n elements each, one after another.
  const float* joined_vectors(const std::string& first, const std::string& last, int n_vectors, int64_t n);
  /// `prefix`.weight (plus one where the spec says so) and, if `bias`, `prefix`.bias.
  void norm(NormWeights& out, const std::string& prefix, int64_t n, bool bias = false);

  /// What the checkpoint calls the tensor `name` of the text model: where it has parts for images too, names have one more part.
  std::string stored_name(const std::string& name) const;
  const TensorView* find(const std::string& name) const { return checkpoint_.find(stored_name(name)); }
  bool has(const std::string& name) const { return find(name) != nullptr; }
  /// The tensor if it is there with this shape and one of the float types (or exactly `dtype`); otherwise notes a problem, returns null.
  const TensorView* expect(const std::string& name, const Shape& shape);
  const TensorView* expect(const std::string& name, const Shape& shape, DType dtype);
  /// The same for the scales of a foreign format: of any float type, 8 bits too.
  const TensorView* expect_scales(const std::string& name, const Shape& shape);
  /// Notes what is wrong with the checkpoint, for finish().
  void problem(std::string text) { problems_.push_back(std::move(text)); }

  /// After all calls: throws one Error that lists everything missing or mis-shaped.
  void check() const;
  /// Then: converts.
  void finish();

 private:
  struct Conversion {
    kernels::Matrix* out;
    std::unique_ptr<MatrixSource> source;
    bool imported = false;  // from a foreign format: what it costs in precision is measured
    bool as_stored = false; // the source's integers and scales go into the blocks unchanged
  };
  struct Layout {
    kernels::Format format;
    int group;
    bool as_stored;
  };
  /// Squared error of what was written and squared sum of what was to be written, of the rows that were looked at.
  struct Deviation {
    double error = 0, sum = 0;
  };
  Layout wanted_layout(const MatrixSource& source, Precision precision) const;
  void matrix(kernels::Matrix& out, std::unique_ptr<MatrixSource> source, int64_t n_rows, int64_t n_cols, Precision precision, bool imported);
  /// False if the scales of some row, to be kept as stored, are none of float16's.
  bool convert(const Conversion& job);
  bool quantize_blocks(const Conversion& job, std::byte* out, int64_t begin, int64_t end) const;
  void narrow_rows(const Conversion& job, std::byte* out, int64_t begin, int64_t end) const;
  void measure(const Conversion& job);
  /// Memory that lives as long as the model, from the current chunk or a new one.
  std::byte* own(size_t n_bytes);
  void disown(size_t n_bytes);  // what own() gave last
  void reserve(size_t n_bytes);
  static size_t converted_bytes(const kernels::Matrix& m);

  enum class Names : uint8_t { plain, outer_prefix, inner_prefix };
  Names names_ = Names::plain;
  Model& model_;
  const Checkpoint& checkpoint_;
  const LoadOptions& options_;
  const Importer* importer_;
  Adapter* adapter_;
  std::vector<std::string> problems_;
  std::vector<Conversion> conversions_;
  std::byte* chunk_next_ = nullptr;  // vectors and matrices share chunks: a mapping each would cost a page and a table entry
  size_t chunk_left_ = 0;
};

}  // namespace engine
