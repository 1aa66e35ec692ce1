// Where the rows of a weight matrix come from, whatever form the checkpoint holds them in: read one row at a time as float32 and then
// stored in a kernel format. An importer of a foreign checkpoint format is one more source.
#pragma once

#include <cstdint>
#include <memory>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace engine {

class MatrixSource {
 public:
  virtual ~MatrixSource() = default;
  /// Writes row `row` [n_cols] as float32. Called from several threads at once.
  virtual void read_row(int64_t row, float* out) const = 0;
  /// Bytes it occupies in the checkpoint, for progress.
  virtual uint64_t n_bytes() const = 0;
  /// The narrowest kernel format that holds its values exactly, or (of a foreign format that none does) comes near enough.
  virtual kernels::Format natural_format() const = 0;
  /// Where that is i8, i4 or mxfp4: its columns a scale; and a row as integers [n_cols] and scales [ceil(n_cols / group)] as the table's
  /// pack_block wants them, just as they are stored. False if a scale of the row is none of float16's; then the whole matrix goes through read_row.
  virtual int natural_group() const { return 0; }
  virtual bool read_quantized(int64_t, int8_t*, uint16_t*) const { return false; }
  /// Where the rows lie contiguously in natural_format(), so that they can be used in place; else null.
  virtual const void* in_place() const { return nullptr; }
};

/// Rows first, first + step, ... of a stored row-major matrix of a float type (f32, bf16, f16, f64). The view's last dimension is the row;
/// all before it count as rows (a stack of experts [n_experts, rows, cols] is one tall matrix).
std::unique_ptr<MatrixSource> stored_rows(const TensorView& tensor, int64_t first, int64_t n_rows, int64_t step = 1);

/// The transpose of rows [first, first + n_cols) of a stored matrix; the result's rows are its columns column, column + step, ...
std::unique_ptr<MatrixSource> transposed_rows(const TensorView& tensor, int64_t first, int64_t n_cols, int64_t column = 0,
                                              int64_t step = 1);

/// MXFP4 (OCP Microscaling formats 1.0; GPT-OSS): blocks U8 [..., rows, cols / 32, 16] with the low nibble first, scales U8
/// [..., rows, cols / 32], value = e2m1[nibble] * 2^(scale - 127).
std::unique_ptr<MatrixSource> mxfp4_rows(const TensorView& blocks, const TensorView& scales, int64_t first, int64_t step);

/// Rows first, first + step, ... (n_rows of n_stored) of another source.
std::unique_ptr<MatrixSource> selected_rows(std::unique_ptr<MatrixSource> source, int64_t n_stored, int64_t first, int64_t n_rows,
                                            int64_t step);

}  // namespace engine
