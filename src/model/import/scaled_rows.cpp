// Weights that are stored as narrow numbers with a scale for each block of them.
#include <algorithm>
#include <cmath>

#include "model/import/grouped_rows.h"

namespace engine {
namespace {

class ScaledRows : public MatrixSource {
 public:
  ScaledRows(const TensorView& weight, const TensorView& scales, int64_t block_rows, int64_t block_cols)
      : weight_(weight), n_cols_(weight.shape.back()), block_rows_(block_rows), block_cols_(block_cols),
        blocks_per_row_((n_cols_ + block_cols - 1) / block_cols), scales_(scales), group_(kernel_group(block_cols, n_cols_)) {
    std::byte bits[256];
    for (int i = 0; i < 256; ++i) bits[i] = static_cast<std::byte>(i);
    if (dtype_bits(weight.dtype) == 8) to_float({weight.dtype, {256}, bits, 256}, values_);
  }
  void read_row(int64_t row, float* out) const override {
    const std::byte* data = weight_.data + row_bytes() * static_cast<size_t>(row);
    if (weight_.dtype == DType::i8) {
      const auto* q = reinterpret_cast<const int8_t*>(data);
      for (int64_t c = 0; c < n_cols_; ++c) out[c] = q[c];
    } else if (dtype_bits(weight_.dtype) == 8) {
      const auto* bits = reinterpret_cast<const uint8_t*>(data);
      for (int64_t c = 0; c < n_cols_; ++c) out[c] = values_[bits[c]];
    } else {
      to_float({weight_.dtype, {n_cols_}, data, row_bytes()}, out);
    }
    for (int64_t c = 0; c < n_cols_;) {
      const float factor = scale(row, c);
      for (const int64_t end = std::min(n_cols_, c + block_cols_); c < end; ++c) out[c] *= factor;
    }
  }
  uint64_t n_bytes() const override { return weight_.n_bytes + scales_.n_bytes; }
  kernels::Format natural_format() const override {
    return weight_.dtype == DType::i8 && group_ > 0 ? kernels::Format::i8 : kernels::Format::bf16;
  }
  int natural_group() const override { return group_; }
  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override {
    const auto* stored = reinterpret_cast<const int8_t*>(weight_.data) + row * n_cols_;
    std::copy(stored, stored + n_cols_, q);
    for (int64_t c = 0; c < n_cols_; c += group_) {
      if (!narrow_scale(scale(row, c), scales++)) return false;
    }
    return true;
  }

 private:
  size_t row_bytes() const { return static_cast<size_t>(n_cols_) * static_cast<size_t>(dtype_bits(weight_.dtype)) / 8; }
  float scale(int64_t row, int64_t col) const { return float_element(scales_, row / block_rows_ * blocks_per_row_ + col / block_cols_); }

  TensorView weight_;
  int64_t n_cols_, block_rows_, block_cols_, blocks_per_row_;
  TensorView scales_;
  float values_[256];  // of the numbers of eight bits
  int group_;
};

}  // namespace

int kernel_group(int64_t n, int64_t n_cols) {
  if (n >= n_cols || n % 128 == 0) return 128;
  return n == 32 || n == 64 ? static_cast<int>(n) : 0;
}

bool narrow_scale(float scale, uint16_t* out) {
  *out = float_to_f16(scale);
  const float back = f16_to_float(*out);
  return back == scale || (std::isfinite(back) && std::abs(back) >= 0x1p-14f);
}

std::unique_ptr<MatrixSource> scaled_rows(const TensorView& weight, const TensorView& scales, int64_t block_rows, int64_t block_cols) {
  return std::make_unique<ScaledRows>(weight, scales, block_rows, block_cols);
}

}  // namespace engine
