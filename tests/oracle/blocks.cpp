#include "blocks.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <xtensor/xmath.hpp>
#include <xtensor/xview.hpp>

namespace oracle {

namespace {

// [T] as a column, [n] as a row, to be broadcast against [T, n].
auto column(const Vector& v) { return xt::view(v, xt::all(), xt::newaxis()); }
auto row(const Vector& v) { return xt::view(v, xt::newaxis(), xt::all()); }

}  // namespace

Matrix linear(const Matrix& x, const Matrix& w, const Vector& b) {
  if (x.shape(1) != w.shape(1)) throw std::runtime_error("linear: inputs do not match the weight");
  Matrix y = xt::zeros<double>({x.shape(0), w.shape(0)});
  for (size_t t = 0; t < x.shape(0); ++t) {
    for (size_t o = 0; o < w.shape(0); ++o) {
      double sum = 0;
      for (size_t i = 0; i < w.shape(1); ++i) sum += x(t, i) * w(o, i);
      y(t, o) = sum;
    }
  }
  if (b.size() != 0) y += row(b);
  return y;
}

Matrix rms_norm(const Matrix& x, const Vector& w, double eps) {
  const Vector mean_square = xt::mean(x * x, {1});
  const Vector factor = 1.0 / xt::sqrt(mean_square + eps);
  return x * column(factor) * row(w);
}

Matrix layer_norm(const Matrix& x, const Vector& w, const Vector& b, double eps) {
  const Vector mean = xt::mean(x, {1});
  const Matrix centred = x - column(mean);
  const Vector variance = xt::mean(centred * centred, {1});
  const Vector factor = 1.0 / xt::sqrt(variance + eps);
  Matrix y = centred * column(factor);
  if (w.size() != 0) y *= row(w);
  if (b.size() != 0) y += row(b);
  return y;
}

Matrix softmax(const Matrix& x) {
  const Vector largest = xt::amax(x, {1});
  const Matrix e = xt::exp(x - column(largest));
  const Vector sum = xt::sum(e, {1});
  return e / column(sum);
}

Matrix activation(const std::string& name, const Matrix& x) {
  if (name == "silu" || name == "swish") return x / (1.0 + xt::exp(-x));
  if (name == "gelu") return 0.5 * x * (1.0 + xt::erf(x / std::numbers::sqrt2));
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
    return 0.5 * x * (1.0 + xt::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  if (name == "relu") return xt::maximum(x, 0.0);
  throw std::runtime_error("activation: unknown: " + name);
}

Cube split_heads(const Matrix& x, size_t n_heads) {
  Cube y = Cube::from_shape({x.shape(0), n_heads, x.shape(1) / n_heads});
  std::copy(x.begin(), x.end(), y.begin());
  return y;
}

Matrix join_heads(const Cube& x) {
  Matrix y = Matrix::from_shape({x.shape(0), x.shape(1) * x.shape(2)});
  std::copy(x.begin(), x.end(), y.begin());
  return y;
}

Cube per_head(const Cube& x, const std::function<Matrix(const Matrix&)>& f) {
  Matrix rows = Matrix::from_shape({x.shape(0) * x.shape(1), x.shape(2)});
  std::copy(x.begin(), x.end(), rows.begin());
  const Matrix done = f(rows);
  Cube y = Cube::from_shape(x.shape());
  std::copy(done.begin(), done.end(), y.begin());
  return y;
}

Cube apply_rope(const Cube& x, const Rope& rope, bool interleaved) {
  Cube y = x;
  const size_t half = rope.inv_freq.size();
  for (size_t t = 0; t < x.shape(0); ++t) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(t) * rope.inv_freq(i);
      const double c = std::cos(angle) * rope.attention_factor;
      const double s = std::sin(angle) * rope.attention_factor;
      const size_t a = interleaved ? 2 * i : i;
      const size_t b = interleaved ? 2 * i + 1 : i + half;
      for (size_t h = 0; h < x.shape(1); ++h) {
        y(t, h, a) = x(t, h, a) * c - x(t, h, b) * s;
        y(t, h, b) = x(t, h, b) * c + x(t, h, a) * s;
      }
    }
  }
  return y;
}

Matrix attention(const Cube& q, const Cube& k, const Cube& v, const AttentionOptions& options) {
  const size_t n_tokens = q.shape(0), n_heads = q.shape(1), d_head = q.shape(2);
  const size_t group = n_heads / k.shape(1);
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(d_head));
  const double masked = -std::numeric_limits<double>::infinity();
  Cube out = Cube::from_shape({n_tokens, n_heads, v.shape(2)});
  for (size_t h = 0; h < n_heads; ++h) {
    const Matrix qh = xt::view(q, xt::all(), h, xt::all());
    const Matrix kh = xt::view(k, xt::all(), h / group, xt::all());
    const Matrix vh = xt::view(v, xt::all(), h / group, xt::all());
    Matrix scores = linear(qh, kh) * scale;  // [T queries, T keys]
    if (options.softcap != 0) scores = options.softcap * xt::tanh(scores / options.softcap);
    for (size_t i = 0; i < n_tokens; ++i) {
      for (size_t j = 0; j < n_tokens; ++j) {
        const bool near = options.window == 0 || j + options.window > i, same = options.chunk == 0 || j / options.chunk == i / options.chunk;
        const bool seen = j <= i && near && same;
        if (!seen) scores(i, j) = masked;
      }
    }
    Matrix weights;
    if (options.sinks.size() != 0) {
      Matrix with_sink = Matrix::from_shape({n_tokens, n_tokens + 1});
      xt::view(with_sink, xt::all(), xt::range(0, n_tokens)) = scores;
      xt::view(with_sink, xt::all(), n_tokens) = options.sinks(h);
      const Matrix all = softmax(with_sink);
      weights = xt::view(all, xt::all(), xt::range(0, n_tokens));
    } else {
      weights = softmax(scores);
    }
    const Matrix v_transposed = xt::transpose(vh);
    xt::view(out, xt::all(), h, xt::all()) = linear(weights, v_transposed);
  }
  return join_heads(out);
}

}  // namespace oracle
