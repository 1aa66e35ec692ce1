#include "model/import/grouped_rows.h"

#include <algorithm>

namespace engine {

float float_element(const TensorView& t, int64_t i) {
  const size_t size = static_cast<size_t>(dtype_bits(t.dtype) / 8);
  float out = 0;
  to_float({t.dtype, {1}, t.data + static_cast<size_t>(i) * size, size}, &out);
  return out;
}

void GroupedRows::set_groups(std::vector<int32_t> group_of_column) {
  bool in_order = true;
  for (int64_t c = 0; c < n_cols_ && in_order; ++c) in_order = group_of_column[static_cast<size_t>(c)] == c / group_;
  if (!in_order) group_of_column_ = std::move(group_of_column);
}

void GroupedRows::choose_format() {
  kernel_group_ = group_of_column_.empty() ? kernel_group(group_, n_cols_) : 0;
  if (kernel_group_ == 0) return;
  int low = 255, high = 0;
  for (int64_t g = 0; g < n_groups_; ++g) {
    for (int64_t r = 0; r < n_rows_; ++r) {
      const int z = zero(g, r);
      low = std::min(low, z);
      high = std::max(high, z);
    }
  }
  const int largest = (1 << bits_) - 1;
  if (largest - low <= 7 && high <= 8) format_ = kernels::Format::i4;
  else if (largest - low <= 127 && high <= 128) format_ = kernels::Format::i8;
  else kernel_group_ = 0;
}

void GroupedRows::read_row(int64_t row, float* out) const {
  std::vector<uint8_t> q(static_cast<size_t>(n_cols_));
  read_integers(row, q.data());
  if (group_of_column_.empty()) {
    for (int64_t g = 0; g < n_groups_; ++g) {
      const float s = scale(g, row);
      const int z = zero(g, row);
      for (int64_t c = g * group_; c < std::min(n_cols_, (g + 1) * group_); ++c) out[c] = static_cast<float>(q[static_cast<size_t>(c)] - z) * s;
    }
    return;
  }
  std::vector<float> scales(static_cast<size_t>(n_groups_));
  std::vector<int> zeros(scales.size());
  for (size_t g = 0; g < scales.size(); ++g) {
    scales[g] = scale(static_cast<int64_t>(g), row);
    zeros[g] = zero(static_cast<int64_t>(g), row);
  }
  for (size_t c = 0; c < q.size(); ++c) {
    const auto g = static_cast<size_t>(group_of_column_[c]);
    out[c] = static_cast<float>(q[c] - zeros[g]) * scales[g];
  }
}

bool GroupedRows::read_quantized(int64_t row, int8_t* q, uint16_t* scales) const {
  std::vector<uint8_t> stored(static_cast<size_t>(n_cols_));
  read_integers(row, stored.data());
  for (int64_t g = 0; g < n_groups_; ++g) {
    const int64_t begin = g * group_, end = std::min(n_cols_, begin + group_);
    const int z = zero(g, row);
    for (int64_t c = begin; c < end; ++c) q[c] = static_cast<int8_t>(stored[static_cast<size_t>(c)] - z);
    uint16_t narrow = 0;
    if (!narrow_scale(scale(g, row), &narrow)) return false;
    for (int64_t c = begin; c < end; c += kernel_group_) *scales++ = narrow;
  }
  return true;
}

}  // namespace engine
