#include "quantize/compensate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/tensor.h"

namespace engine {
namespace {

using kernels::Format;

constexpr int64_t panel = 64;  // columns or rows that are worked on together

/// y[t * y_stride + r] = dot(w row r, x row t), r in [begin, end): the kernel of float32 weights, on this thread's scratch.
class Products {
 public:
  explicit Products(int64_t n_cols) : scratch_(kernels::table().scratch_bytes(n_cols) + 64) {}
  void operator()(const float* w, int64_t n_cols, int64_t begin, int64_t end, const float* x, int64_t n_tokens, float* y, int64_t y_stride) {
    const kernels::Matrix m{w, end, n_cols, Format::f32, 0};
    kernels::table().matmul[static_cast<int>(Format::f32)](m, begin, end, x, n_cols * 4, n_tokens, y - begin, y_stride, scratch_.data());
  }

 private:
  Buffer scratch_;
};

struct Range {
  float low, high;
};

Range range_of(Format format) { return format == Format::i4 ? Range{-8, 7} : Range{-127, 127}; }

/// To the nearest integer of the range, ties to even: the adder rounds.
float rounded(float x, const Range& range) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  return (std::min(std::max(x, range.low), range.high) + magic) - magic;
}

/// A row being quantized: exact values, integers, scales; in column order.
struct Row {
  const float* w;
  float* q;
  float* scale;  // [n_groups]
};

/// The scale with the least squared error, columns counted as heavy as their inputs are. A negative scale lets the largest value use the
/// longer side of the range.
void choose_scales(const float* w, const float* weight, int64_t stride, int64_t n_cols, int group, Format format, float* scales) {
  const Range range = range_of(format);
  for (int64_t begin = 0; begin < n_cols; begin += group) {
    const int64_t end = std::min<int64_t>(n_cols, begin + group);
    float largest = 0;
    for (int64_t c = begin; c < end; ++c) {
      if (std::abs(w[c]) > std::abs(largest)) largest = w[c];
    }
    float best = 0, best_error = INFINITY;
    const int n_steps = format == Format::i4 ? 17 : 1;
    for (int step = 0; step < n_steps; ++step) {
      const float steps = format == Format::i4 ? 6.5f + 0.25f * static_cast<float>(step) : 127.0f;
      for (const float sign : {1.0f, -1.0f}) {
        const float scale = f16_to_float(float_to_f16(sign * largest / steps));
        if (scale == 0 || !std::isfinite(scale) || (format == Format::i8 && scale < 0)) continue;
        float error = 0;
        const float inverse = 1 / scale;
        for (int64_t c = begin; c < end; ++c) {
          const float d = w[c] - scale * rounded(w[c] * inverse, range);
          error += d * d * weight[c * stride];
        }
        if (error < best_error) best = scale, best_error = error;
      }
    }
    *scales++ = best;
  }
}

/// What the matrices of a task work with.
struct Job {
  const Moments& moments;
  const Feedback& feedback;
  Format format;
  int group;
  int rounds;
  int64_t n, n_groups;
};

/// Rounds n_rows rows with feedback. q and scale are filled in.
void round_with_feedback(const Job& job, Products& products, const Row* rows, int64_t n_rows) {
  const int64_t n = job.n;
  const Range range = range_of(job.format);
  const std::vector<int32_t>& order = job.feedback.order();
  const float* ut = job.feedback.ut();
  std::vector<float> errors(static_cast<size_t>(n_rows * n)), base(static_cast<size_t>(n_rows * panel));
  for (int64_t k0 = 0; k0 < n; k0 += panel) {
    const int64_t k1 = std::min(n, k0 + panel);
    products(ut, n, k0, k1, errors.data(), n_rows, base.data(), panel);
    for (int64_t r = 0; r < n_rows; ++r) {
      float* e = errors.data() + r * n;
      for (int64_t k = k0; k < k1; ++k) {
        const int64_t c = order[static_cast<size_t>(k)];
        float wanted = rows[r].w[c] + base[static_cast<size_t>(r * panel + k - k0)];
        for (int64_t j = k0; j < k; ++j) wanted += e[j] * ut[k * n + j];
        const float scale = rows[r].scale[c / job.group];
        const float q = scale != 0 ? rounded(wanted / scale, range) : 0;
        rows[r].q[c] = q;
        e[k] = rows[r].w[c] - q * scale;
      }
    }
  }
}

/// g -= delta * H[column]
void move(const Job& job, int64_t column, float delta, float* g) {
  kernels::table().add_scaled(job.moments.h() + column * job.n, -delta, g, job.n);
}

/// One round over a row's integers; g = (w - v) H. True if any moved.
bool move_integers(const Job& job, const Row& row, float* g) {
  const Range range = range_of(job.format);
  const float* h = job.moments.h();
  bool moved = false;
  for (int64_t c = 0; c < job.n; ++c) {
    const float scale = row.scale[c / job.group];
    if (scale == 0) continue;
    const float q = rounded(row.q[c] + g[c] / (h[c * job.n + c] * scale), range);
    if (q == row.q[c]) continue;
    move(job, c, (q - row.q[c]) * scale, g);
    row.q[c] = q;
    moved = true;
  }
  return moved;
}

constexpr float least_move = 0.004f;

bool move_scales(const Job& job, const Row& row, float* g) {
  const float* h = job.moments.h();
  bool moved = false;
  for (int64_t i = 0; i < job.n_groups; ++i) {
    const int64_t begin = i * job.group, end = std::min<int64_t>(job.n, begin + job.group);
    double along = 0, square = 0;
    for (int64_t a = begin; a < end; ++a) {
      if (row.q[a] == 0) continue;
      along += static_cast<double>(row.q[a]) * g[a];
      double sum = 0;
      for (int64_t b = begin; b < end; ++b) sum += static_cast<double>(h[a * job.n + b]) * row.q[b];
      square += row.q[a] * sum;
    }
    if (!(square > 0)) continue;
    const double best = row.scale[i] + along / square;
    const float scale = f16_to_float(float_to_f16(static_cast<float>(best)));
    if (!std::isfinite(scale) || scale == 0 || std::abs(scale - best) >= std::abs(row.scale[i] - best)) continue;
    if (std::abs(scale - row.scale[i]) < least_move * std::abs(row.scale[i])) continue;  // it would cost all of H's rows for next to nothing
    for (int64_t c = begin; c < end; ++c) {
      if (row.q[c] != 0) move(job, c, row.q[c] * (scale - row.scale[i]), g);
    }
    row.scale[i] = scale;
    moved = true;
  }
  return moved;
}

void refine(const Job& job, Products& products, const Row* rows, int64_t n_rows) {
  const int64_t n = job.n;
  std::vector<float> errors(static_cast<size_t>(n_rows * n)), g(errors.size());
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t c = 0; c < n; ++c) errors[static_cast<size_t>(r * n + c)] = rows[r].w[c] - rows[r].q[c] * rows[r].scale[c / job.group];
  }
  products(job.moments.h(), n, 0, n, errors.data(), n_rows, g.data(), n);  // H is symmetric
  for (int64_t r = 0; r < n_rows; ++r) {
    float* row_g = g.data() + r * n;
    for (int round = 0; round < job.rounds; ++round) {
      const bool integers = move_integers(job, rows[r], row_g);
      if (!move_scales(job, rows[r], row_g) && !integers) break;
    }
  }
}

/// Runs work(begin, end, products) for parts of n rows on all threads.
template <class F>
void for_rows(Team& team, int64_t n, int64_t grain, int64_t n_cols, F&& work) {
  team.run([&](Worker& w) {
    Products products(n_cols);
    w.for_chunks(n, grain, [&](int64_t begin, int64_t end) { work(begin, end, products); });
  });
}

}  // namespace

QuantizedRows::QuantizedRows(Format format_, int group_, int64_t n_rows_, int64_t n_cols_)
    : format(format_), group(group_), n_rows(n_rows_), n_cols(n_cols_), q(static_cast<size_t>(n_rows_ * n_cols_)),
      scales(static_cast<size_t>(n_rows_ * n_groups())) {}

void QuantizedRows::dequantize(Team& team, float* out) const {
  for_rows(team, n_rows, 16, 1, [&](int64_t begin, int64_t end, Products&) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < n_cols; ++c) {
        out[r * n_cols + c] = static_cast<float>(q[static_cast<size_t>(r * n_cols + c)]) *
                              f16_to_float(scales[static_cast<size_t>(r * n_groups() + c / group)]);
      }
    }
  });
}

// --- moments ---------------------------------------------------------------------------------------------------------------------

Moments::Moments(int64_t n_cols, bool cross) : n_cols_(n_cols), h_(static_cast<size_t>(n_cols * n_cols) * 4) {
  if (cross) cross_ = Buffer(static_cast<size_t>(n_cols * n_cols) * 4);
}

/// to[i][j] += sum over tokens of left[t][i] * right[t][j]; `upper`: j >= i is enough (rounded up to panels).
void Moments::add_products(Team& team, const float* left, const float* right, int64_t n, bool upper, float* to) {
  const int64_t c = n_cols_;
  const size_t bytes = static_cast<size_t>(c * n) * 4;
  for (Buffer* b : {&left_, &right_}) {
    if (b->size() < bytes) *b = Buffer(bytes);
  }
  const bool same = left == right;
  const auto transpose = [&](const float* from, float* out, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t t = 0; t < n; ++t) out[i * n + t] = from[t * c + i];
    }
  };
  team.run([&](Worker& w) {
    w.for_chunks(c, 16, [&](int64_t begin, int64_t end) {
      transpose(left, left_.as<float>(), begin, end);
      if (!same) transpose(right, right_.as<float>(), begin, end);
    });
    Products products(n);
    std::vector<float> sums(static_cast<size_t>(c * panel));
    w.for_chunks(c, panel, [&](int64_t begin, int64_t end) {
      const int64_t rows = upper ? end : c;  // i < end
      products(same ? left_.as<float>() : right_.as<float>(), n, begin, end, left_.as<float>(), rows, sums.data(), panel);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = begin; j < end; ++j) to[i * c + j] += sums[static_cast<size_t>(i * panel + j - begin)];
      }
    });
  });
}

void Moments::add(Team& team, const float* rows, const float* exact, int64_t n) {
  add_products(team, rows, rows, n, true, h_.as<float>());
  if (cross_.size() > 0) add_products(team, exact, rows, n, false, cross_.as<float>());
  n_tokens_ += n;
}

void Moments::finish(Team& team, float damping) {
  const int64_t n = n_cols_;
  float* h = h_.as<float>();
  const float share = 1.0f / static_cast<float>(std::max<int64_t>(n_tokens_, 1));
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(h[i * n + i]) * share;
  const float more = trace > 0 ? damping * static_cast<float>(trace / static_cast<double>(n)) : 1.0f;
  team.run([&](Worker& w) {
    w.for_chunks(n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = i; j < n; ++j) h[i * n + j] *= share;
      }
    });
    w.for_chunks(n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < i; ++j) h[i * n + j] = h[j * n + i];
      }
    });
    if (cross_.size() > 0) {
      w.for_chunks(n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * n; i < end * n; ++i) cross_.as<float>()[i] = cross_.as<float>()[i] * share - h[i];
      });
    }
  });
  for (int64_t i = 0; i < n; ++i) h[i * n + i] += more;
  left_ = Buffer();
  right_ = Buffer();
}

// --- feedback --------------------------------------------------------------------------------------------------------------------

Feedback::Feedback(Team& team, const Moments& moments) : order_(static_cast<size_t>(moments.n_cols())) {
  const int64_t n = moments.n_cols();
  std::iota(order_.begin(), order_.end(), 0);
  const float* h = moments.h();
  std::stable_sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) { return h[a * n + a] > h[b * n + b]; });
  float mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += h[i * n + i] / static_cast<float>(n);
  float extra = 0;
  while (!factor(team, moments, extra * mean)) extra = extra == 0 ? 0.01f : extra * 4;
  ut_ = Buffer(static_cast<size_t>(n * n) * 4);
  const float* lower = lower_.as<float>();
  float* ut = ut_.as<float>();
  for_rows(team, n, 16, 1, [&](int64_t begin, int64_t end, Products&) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t column = n - 1 - k;
      for (int64_t j = 0; j < k; ++j) ut[k * n + j] = lower[(n - 1 - j) * n + column] / lower[column * n + column];
    }
  });
}

/// Cholesky factor of H (+ extra on the diagonal), rows and columns in the reverse of order_. False if it is not positive enough.
bool Feedback::factor(Team& team, const Moments& moments, float extra) {
  const int64_t n = moments.n_cols();
  const float* h = moments.h();
  lower_ = Buffer(static_cast<size_t>(n * n) * 4);
  float* lower = lower_.as<float>();
  const auto at = [&](int64_t i) { return static_cast<int64_t>(order_[static_cast<size_t>(n - 1 - i)]); };
  std::atomic<bool> positive = true;
  team.run([&](Worker& w) {
    Products products(n);
    std::vector<float> sums(static_cast<size_t>(panel * panel));
    for (int64_t k0 = 0; k0 < n; k0 += panel) {
      const int64_t k1 = std::min(n, k0 + panel), width = k1 - k0;
      // What earlier panels leave of this one's columns. Rows of `lower` are zero where they are not computed yet.
      const auto rest = [&](int64_t begin, int64_t end) {
        products(lower, n, k0, k1, lower + begin * n, end - begin, sums.data(), panel);
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t k = k0; k < k1; ++k) {
            float& sum = sums[static_cast<size_t>((i - begin) * panel + k - k0)];
            sum = h[at(i) * n + at(k)] + (i == k ? extra : 0) - sum;
          }
        }
      };
      const auto solve = [&](int64_t i, const float* sum, int64_t end) {
        for (int64_t k = k0; k < end; ++k) {
          double value = sum[k - k0];
          for (int64_t j = k0; j < k; ++j) value -= static_cast<double>(lower[i * n + j]) * lower[k * n + j];
          if (i == k) {
            if (!(value > 0)) positive = false, value = 1;
            lower[i * n + k] = static_cast<float>(std::sqrt(value));
          } else {
            lower[i * n + k] = static_cast<float>(value / lower[k * n + k]);
          }
        }
      };
      if (w.index() == 0) {
        rest(k0, k1);
        for (int64_t i = 0; i < width; ++i) solve(k0 + i, sums.data() + i * panel, k0 + i + 1);
      }
      w.barrier();
      w.for_chunks(n - k1, panel, [&](int64_t begin, int64_t end) {
        rest(k1 + begin, k1 + end);
        for (int64_t i = k1 + begin; i < k1 + end; ++i) solve(i, sums.data() + (i - k1 - begin) * panel, k1);
      });
      const bool go_on = positive;
      w.barrier();  // before anybody changes it again
      if (!go_on) return;
    }
  });
  return positive;
}

void Feedback::correct(Team& team, const Moments& moments, float* w, int64_t n_rows) const {
  // shift = (w C) H^-1 with C the cross moments: two triangular solves a row, in the factor's order.
  const int64_t n = moments.n_cols();
  const float* lower = lower_.as<float>();
  Buffer transposed(static_cast<size_t>(n * n) * 4), upper(static_cast<size_t>(n * n) * 4);
  for_rows(team, n, 16, 1, [&](int64_t begin, int64_t end, Products&) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        transposed.as<float>()[i * n + j] = moments.cross()[j * n + i];
        if (j >= i) upper.as<float>()[i * n + j] = lower[j * n + i];
      }
    }
  });
  for_rows(team, n_rows, 16, n, [&](int64_t begin, int64_t end, Products& products) {
    const int64_t rows = end - begin;
    std::vector<float> b(static_cast<size_t>(rows * n)), y(b.size()), sums(static_cast<size_t>(rows * panel));
    products(transposed.as<float>(), n, 0, n, w + begin * n, rows, b.data(), n);
    std::vector<float> in_order(b.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) in_order[static_cast<size_t>(r * n + i)] = b[static_cast<size_t>(r * n + order_[static_cast<size_t>(n - 1 - i)])];
    }
    // Forward: y_k = (b_k - sum over j < k of L_kj y_j) / L_kk; y is zero where it is not computed yet.
    for (int64_t k0 = 0; k0 < n; k0 += panel) {
      const int64_t k1 = std::min(n, k0 + panel);
      products(lower, n, k0, k1, y.data(), rows, sums.data(), panel);
      for (int64_t r = 0; r < rows; ++r) {
        float* row = y.data() + r * n;
        for (int64_t k = k0; k < k1; ++k) {
          double value = in_order[static_cast<size_t>(r * n + k)] - sums[static_cast<size_t>(r * panel + k - k0)];
          for (int64_t j = k0; j < k; ++j) value -= static_cast<double>(lower[k * n + j]) * row[j];
          row[k] = static_cast<float>(value / lower[k * n + k]);
        }
      }
    }
    // Backward with L^T.
    std::fill(b.begin(), b.end(), 0.0f);
    for (int64_t k1 = n; k1 > 0;) {
      const int64_t k0 = (k1 - 1) / panel * panel;
      products(upper.as<float>(), n, k0, k1, b.data(), rows, sums.data(), panel);
      for (int64_t r = 0; r < rows; ++r) {
        float* row = b.data() + r * n;
        for (int64_t k = k1 - 1; k >= k0; --k) {
          double value = y[static_cast<size_t>(r * n + k)] - sums[static_cast<size_t>(r * panel + k - k0)];
          for (int64_t j = k + 1; j < k1; ++j) value -= static_cast<double>(upper.as<float>()[k * n + j]) * row[j];
          row[k] = static_cast<float>(value / lower[k * n + k]);
        }
      }
      k1 = k0;
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) w[(begin + r) * n + order_[static_cast<size_t>(n - 1 - i)]] += b[static_cast<size_t>(r * n + i)];
    }
  });
}

// --- quantizing ------------------------------------------------------------------------------------------------------------------

void compensate(Team& team, const Moments& moments, const Feedback& feedback, const float* w, QuantizedRows& out, int rounds) {
  const int64_t n = out.n_cols, n_groups = out.n_groups();
  ASSERT(n == moments.n_cols());
  const Job job{moments, feedback, out.format, out.group, rounds, n, n_groups};
  for_rows(team, out.n_rows, 16, n, [&](int64_t begin, int64_t end, Products& products) {
    const int64_t n_rows = end - begin;
    std::vector<float> q(static_cast<size_t>(n_rows * n)), scales(static_cast<size_t>(n_rows * n_groups));
    std::vector<Row> rows;
    for (int64_t r = 0; r < n_rows; ++r) {
      rows.push_back({w + (begin + r) * n, q.data() + r * n, scales.data() + r * n_groups});
      choose_scales(rows.back().w, moments.h(), n + 1, n, out.group, out.format, rows.back().scale);
    }
    round_with_feedback(job, products, rows.data(), n_rows);
    if (rounds > 0) refine(job, products, rows.data(), n_rows);
    for (size_t i = 0; i < q.size(); ++i) out.q[static_cast<size_t>(begin * n) + i] = static_cast<int8_t>(q[i]);
    for (size_t i = 0; i < scales.size(); ++i) out.scales[static_cast<size_t>(begin * n_groups) + i] = float_to_f16(scales[i]);
  });
}

void round_to_nearest(Team& team, const float* w, QuantizedRows& out) {
  for_rows(team, out.n_rows, 16, 1, [&](int64_t begin, int64_t end, Products&) {
    for (int64_t r = begin; r < end; ++r) {
      kernels::table().quantize_row(out.format, out.group, w + r * out.n_cols, out.n_cols, out.q.data() + r * out.n_cols,
                                    out.scales.data() + r * out.n_groups());
    }
  });
}

double relative_error(Team& team, const Moments& moments, const float* w, const QuantizedRows& v) {
  const int64_t n = v.n_cols;
  std::vector<double> error(static_cast<size_t>(v.n_rows)), whole(error.size());
  for_rows(team, v.n_rows, 16, n, [&](int64_t begin, int64_t end, Products& products) {
    const int64_t rows = end - begin;
    std::vector<float> d(static_cast<size_t>(rows * n)), dh(d.size());
    const auto cost = [&](int64_t r, const float* x) {
      double sum = 0;
      for (int64_t c = 0; c < n; ++c) sum += static_cast<double>(x[c]) * dh[static_cast<size_t>(r * n + c)];
      return sum;
    };
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const size_t i = static_cast<size_t>((begin + r) * n + c);
        d[static_cast<size_t>(r * n + c)] = w[i] - static_cast<float>(v.q[i]) * f16_to_float(v.scales[static_cast<size_t>((begin + r) * v.n_groups() + c / v.group)]);
      }
    }
    products(moments.h(), n, 0, n, d.data(), rows, dh.data(), n);
    for (int64_t r = 0; r < rows; ++r) error[static_cast<size_t>(begin + r)] = cost(r, d.data() + r * n);
    products(moments.h(), n, 0, n, w + begin * n, rows, dh.data(), n);
    for (int64_t r = 0; r < rows; ++r) whole[static_cast<size_t>(begin + r)] = cost(r, w + (begin + r) * n);
  });
  const double total = std::accumulate(whole.begin(), whole.end(), 0.0);
  return total > 0 ? std::accumulate(error.begin(), error.end(), 0.0) / total : 0;
}

}  // namespace engine
