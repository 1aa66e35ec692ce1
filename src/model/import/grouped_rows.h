// Rows of unsigned integers with a scale and a zero for each group of columns: what GPTQ and AWQ store, each packed in its own way.
#pragma once

#include <vector>

#include "model/import/importer.h"

namespace engine {

/// value = (q - zero) * scale. Kernel formats hold q - zero as it is, where a group of theirs fits and the integers are small enough.
class GroupedRows : public MatrixSource {
 public:
  void read_row(int64_t row, float* out) const override;
  kernels::Format natural_format() const override { return format_; }
  int natural_group() const override { return kernel_group_; }
  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override;

 protected:
  /// group: columns; the last may be shorter.
  GroupedRows(int64_t n_rows, int64_t n_cols, int bits, int64_t group)
      : n_rows_(n_rows), n_cols_(n_cols), bits_(bits), group_(group), n_groups_((n_cols + group - 1) / group) {}
  /// Columns belong to groups as they like (GPTQ's act-order): [n_cols], each below n_groups.
  void set_groups(std::vector<int32_t> group_of_column);
  /// To be called once all can be read.
  void choose_format();

  virtual void read_integers(int64_t row, uint8_t* q) const = 0;
  virtual int zero(int64_t group, int64_t row) const = 0;
  virtual float scale(int64_t group, int64_t row) const = 0;

  int64_t n_rows_, n_cols_;
  int bits_;
  int64_t group_, n_groups_;

 private:
  std::vector<int32_t> group_of_column_;  // empty: column / group_
  kernels::Format format_ = kernels::Format::bf16;
  int kernel_group_ = 0;
};

/// Element `i` of a float tensor.
float float_element(const TensorView& tensor, int64_t i);

/// A little-endian word of an I32 tensor's data, which may be unaligned.
inline uint32_t word_at(const TensorView& tensor, int64_t i) {
  uint32_t word;
  __builtin_memcpy(&word, tensor.data + i * 4, 4);
  return word;
}

}  // namespace engine
