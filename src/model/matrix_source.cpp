#include "model/matrix_source.h"

#include <cmath>

#include "base/error.h"

namespace engine {
namespace {

using kernels::Format;

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::bf16: return Format::bf16;
    case DType::f16: return Format::f16;
    default: return Format::f32;
  }
}

/// n elements from element `begin` on.
TensorView elements(const TensorView& t, int64_t begin, int64_t n) {
  const size_t size = static_cast<size_t>(dtype_bits(t.dtype) / 8);
  return {t.dtype, {n}, t.data + static_cast<size_t>(begin) * size, static_cast<size_t>(n) * size};
}

class StoredRows : public MatrixSource {
 public:
  StoredRows(const TensorView& t, int64_t first, int64_t n_rows, int64_t step)
      : tensor_(t), first_(first), n_rows_(n_rows), step_(step), n_cols_(t.shape.back()) {}
  void read_row(int64_t row, float* out) const override {
    to_float(elements(tensor_, (first_ + row * step_) * n_cols_, n_cols_), out);
  }
  uint64_t n_bytes() const override { return elements(tensor_, 0, n_rows_ * n_cols_).n_bytes; }
  Format natural_format() const override { return format_of(tensor_.dtype); }
  const void* in_place() const override {
    return step_ == 1 && tensor_.dtype != DType::f64 ? elements(tensor_, first_ * n_cols_, 0).data : nullptr;
  }

 private:
  TensorView tensor_;
  int64_t first_, n_rows_, step_, n_cols_;
};

class TransposedRows : public MatrixSource {
 public:
  TransposedRows(const TensorView& t, int64_t first, int64_t n_cols, int64_t column, int64_t step)
      : tensor_(t), first_(first), n_cols_(n_cols), column_(column), step_(step) {}
  void read_row(int64_t row, float* out) const override {
    const int64_t stride = tensor_.shape.back();
    for (int64_t c = 0; c < n_cols_; ++c) to_float(elements(tensor_, (first_ + c) * stride + column_ + row * step_, 1), out + c);
  }
  uint64_t n_bytes() const override { return elements(tensor_, 0, n_cols_ * tensor_.shape.back() / step_).n_bytes; }
  Format natural_format() const override { return format_of(tensor_.dtype); }

 private:
  TensorView tensor_;
  int64_t first_, n_cols_, column_, step_;
};

class Mxfp4Rows : public MatrixSource {
 public:
  Mxfp4Rows(const TensorView& blocks, const TensorView& scales, int64_t first, int64_t step)
      : blocks_(blocks), scales_(scales), first_(first), step_(step), n_blocks_(scales.shape.back()) {}
  void read_row(int64_t row, float* out) const override {
    static constexpr float e2m1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    const int64_t start = (first_ + row * step_) * n_blocks_;
    for (int64_t b = 0; b < n_blocks_; ++b) {
      const int exponent = std::to_integer<int>(scales_.data[start + b]) - 127;
      const std::byte* bytes = blocks_.data + (start + b) * 16;
      for (int i = 0; i < 16; ++i) {
        const unsigned byte = std::to_integer<unsigned>(bytes[i]);
        *out++ = std::ldexp(e2m1[byte & 15], exponent);
        *out++ = std::ldexp(e2m1[byte >> 4], exponent);
      }
    }
  }
  uint64_t n_bytes() const override { return (blocks_.n_bytes + scales_.n_bytes) / static_cast<uint64_t>(blocks_.shape[0]); }
  Format natural_format() const override { return Format::mxfp4; }
  int natural_group() const override { return 32; }
  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override {
    const int64_t start = (first_ + row * step_) * n_blocks_;
    for (int64_t b = 0; b < n_blocks_; ++b) {
      scales[b] = std::to_integer<uint16_t>(scales_.data[start + b]);
      const std::byte* bytes = blocks_.data + (start + b) * 16;
      for (int i = 0; i < 16; ++i) {
        const unsigned byte = std::to_integer<unsigned>(bytes[i]);
        *q++ = static_cast<int8_t>(byte & 15);
        *q++ = static_cast<int8_t>(byte >> 4);
      }
    }
    return true;
  }

 private:
  TensorView blocks_, scales_;
  int64_t first_, step_, n_blocks_;
};

class SelectedRows : public MatrixSource {
 public:
  SelectedRows(std::unique_ptr<MatrixSource> source, uint64_t n_bytes, int64_t first, int64_t step)
      : source_(std::move(source)), n_bytes_(n_bytes), first_(first), step_(step) {}
  void read_row(int64_t row, float* out) const override { source_->read_row(first_ + row * step_, out); }
  uint64_t n_bytes() const override { return n_bytes_; }
  Format natural_format() const override { return source_->natural_format(); }
  int natural_group() const override { return source_->natural_group(); }
  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override {
    return source_->read_quantized(first_ + row * step_, q, scales);
  }

 private:
  std::unique_ptr<MatrixSource> source_;
  uint64_t n_bytes_;
  int64_t first_, step_;
};

}  // namespace

std::unique_ptr<MatrixSource> selected_rows(std::unique_ptr<MatrixSource> source, int64_t n_stored, int64_t first, int64_t n_rows,
                                            int64_t step) {
  if (n_rows == n_stored) return source;
  const uint64_t n_bytes = source->n_bytes() / static_cast<uint64_t>(n_stored) * static_cast<uint64_t>(n_rows);
  return std::make_unique<SelectedRows>(std::move(source), n_bytes, first, step);
}

std::unique_ptr<MatrixSource> stored_rows(const TensorView& tensor, int64_t first, int64_t n_rows, int64_t step) {
  return std::make_unique<StoredRows>(tensor, first, n_rows, step);
}

std::unique_ptr<MatrixSource> transposed_rows(const TensorView& tensor, int64_t first, int64_t n_cols, int64_t column,
                                              int64_t step) {
  return std::make_unique<TransposedRows>(tensor, first, n_cols, column, step);
}

std::unique_ptr<MatrixSource> mxfp4_rows(const TensorView& blocks, const TensorView& scales, int64_t first, int64_t step) {
  return std::make_unique<Mxfp4Rows>(blocks, scales, first, step);
}

}  // namespace engine
