// Error-compensating quantization of a matrix: the integers and scales that change its products with the inputs it will see the least.
//
// With inputs X (a row a token) and H = X^T X, a row w that becomes v costs (w - v) H (w - v)^T. Column after column is rounded, and what that
// loses is put right in the columns still to come (GPTQ, arXiv:2210.17323, in the form of LDLQ, arXiv:2307.13304: with H = U D U^T, U unit
// upper triangular, column k is rounded at w_k + sum over earlier j of (w - v)_j U_jk). Then each integer, and each scale, is moved to where
// the cost is least while all others stay (coordinate descent), again and again: no step can make it worse.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/threads.h"
#include "kernels/kernels.h"

namespace engine {

/// A matrix as integers and scales, not yet packed.
struct QuantizedRows {
  kernels::Format format = kernels::Format::i4;
  int group = 32;
  int64_t n_rows = 0, n_cols = 0;
  std::vector<int8_t> q;         // [n_rows, n_cols]
  std::vector<uint16_t> scales;  // [n_rows, n_groups] float16

  QuantizedRows() = default;
  QuantizedRows(kernels::Format format_, int group_, int64_t n_rows_, int64_t n_cols_);
  int64_t n_groups() const { return (n_cols + group - 1) / group; }
  void dequantize(Team& team, float* out) const;
};

/// Sums over tokens of products of inputs.
class Moments {
 public:
  /// With `cross`: those of other inputs (the exact model's) with these, too.
  Moments(int64_t n_cols, bool cross);

  /// Adds n rows [n, n_cols]; `exact`: what the exact model has in their place, if `cross`.
  void add(Team& team, const float* rows, const float* exact, int64_t n);
  /// To be called once, after the last rows: means, in both triangles; columns that were never used count as if they were a little.
  void finish(Team& team, float damping);

  int64_t n_cols() const { return n_cols_; }
  int64_t n_tokens() const { return n_tokens_; }
  const float* h() const { return h_.as<float>(); }          // [n_cols, n_cols], damped
  const float* cross() const { return cross_.as<float>(); }  // [n_cols, n_cols]: mean of exact^T rows - rows^T rows; null without

 private:
  void add_products(Team& team, const float* left, const float* right, int64_t n, bool upper, float* to);

  int64_t n_cols_, n_tokens_ = 0;
  Buffer h_, cross_, left_, right_;
};

/// How rounding errors are passed on, for all matrices that share their inputs.
class Feedback {
 public:
  Feedback(Team& team, const Moments& moments);

  /// Column indices in the order in which they are rounded: the heaviest inputs first.
  const std::vector<int32_t>& order() const { return order_; }
  /// [n_cols, n_cols] in that order: row k holds U_jk for j < k, then zeros.
  const float* ut() const { return ut_.as<float>(); }
  /// With cross moments, w -> w + shift that makes the products with the inputs as they are come nearest the exact model's products.
  void correct(Team& team, const Moments& moments, float* w, int64_t n_rows) const;

 private:
  bool factor(Team& team, const Moments& moments, float extra);

  std::vector<int32_t> order_;
  Buffer lower_, ut_;       // Cholesky factor of the reversed order, and U^T
};

/// Quantizes w [n_rows, n_cols]; out's format, group and shape say how. `rounds` of coordinate descent at most.
void compensate(Team& team, const Moments& moments, const Feedback& feedback, const float* w, QuantizedRows& out, int rounds);

/// Rounds to nearest as `--dtype` does while loading.
void round_to_nearest(Team& team, const float* w, QuantizedRows& out);

/// Mean squared error of the products, relative to the mean square of the exact products.
double relative_error(Team& team, const Moments& moments, const float* w, const QuantizedRows& v);

}  // namespace engine
