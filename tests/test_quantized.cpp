// Quantized formats: every level against plain scalar arithmetic written here from the formats' definition.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"

using namespace engine;
using namespace engine::kernels;

namespace {

struct Case {
  Format format;
  int group;
  int64_t n_rows, n_cols;
};

const Case cases[] = {
    {Format::i8, 32, 16, 32},  {Format::i8, 32, 1, 1},     {Format::i8, 64, 33, 100},  {Format::i8, 128, 130, 896},
    {Format::i4, 32, 16, 32},  {Format::i4, 32, 5, 31},    {Format::i4, 64, 47, 200},  {Format::i4, 128, 200, 352},
    {Format::i4, 32, 144, 172}, {Format::i8, 32, 144, 172}, {Format::i4, 32, 64, 4864}, {Format::i8, 32, 80, 2050},
};

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (float& v : out) v = normal(rng);
  return out;
}

/// One matrix quantized and packed by a level.
struct Packed {
  std::vector<int8_t> q;
  std::vector<uint16_t> scales;
  std::vector<std::byte> blocks;
  Matrix matrix;

  /// `lowest`: some int8 are -128, which quantize_row never gives but other programs do.
  Packed(const Table& t, const Case& c, const std::vector<float>& w, bool lowest = false) {
    const int64_t n_groups = (c.n_cols + c.group - 1) / c.group, n_blocks = (c.n_rows + pack_rows - 1) / pack_rows;
    q.resize(static_cast<size_t>(c.n_rows * c.n_cols));
    scales.resize(static_cast<size_t>(c.n_rows * n_groups));
    for (int64_t r = 0; r < c.n_rows; ++r) {
      t.quantize_row(c.format, c.group, w.data() + r * c.n_cols, c.n_cols, q.data() + r * c.n_cols, scales.data() + r * n_groups);
    }
    for (size_t i = 0; lowest && c.format == Format::i8 && i < q.size(); i += 1 + i % 3) q[i] = -128;
    const size_t block = t.packed_block_bytes(c.format, c.n_cols, c.group);
    CHECK(block % 64 == 0);
    blocks.resize(block * static_cast<size_t>(n_blocks));
    for (int64_t b = 0; b < n_blocks; ++b) {
      const int64_t first = b * pack_rows;
      t.pack_block(c.format, c.group, q.data() + first * c.n_cols, scales.data() + first * n_groups,
                   static_cast<int>(std::min<int64_t>(pack_rows, c.n_rows - first)), c.n_cols, blocks.data() + block * static_cast<size_t>(b));
    }
    matrix = {blocks.data(), c.n_rows, c.n_cols, c.format, c.group};
  }
  float weight(int64_t r, int64_t col) const {
    const int64_t n_groups = (matrix.n_cols + matrix.group - 1) / matrix.group;
    return f16_to_float(scales[static_cast<size_t>(r * n_groups + col / matrix.group)]) * q[static_cast<size_t>(r * matrix.n_cols + col)];
  }
};

template <class F>
void for_each_level(F&& f) {
  int n = 0;
  const Level* all = levels(&n);
  for (int i = 0; i < n; ++i) {
    if (!all[i].usable) continue;
    INFO("level ", all[i].name);
    f(*all[i].table);
  }
}

std::vector<std::byte> quantized_rows(const Table& t, const std::vector<float>& x, int64_t n_tokens, int64_t n_cols, int64_t step) {
  const size_t stride = t.act_bytes(n_cols);
  std::vector<std::byte> out(stride * static_cast<size_t>(n_tokens));
  for (int64_t i = 0; i < n_tokens; ++i) {
    for (int64_t c = 0; c < n_cols; c += step) {
      t.quantize_act(x.data() + i * n_cols, 0, 1, n_cols, c, std::min(n_cols, c + step), out.data() + stride * static_cast<size_t>(i), 0);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("quantized rows are within half a step, the same on every level, and come back from the blocks") {
  for (const Case& c : cases) {
    CAPTURE(static_cast<int>(c.format));
    CAPTURE(c.group);
    CAPTURE(c.n_rows);
    CAPTURE(c.n_cols);
    const std::vector<float> w = random_floats(static_cast<size_t>(c.n_rows * c.n_cols), 3);
    std::vector<int8_t> first_q;
    std::vector<uint16_t> first_scales;
    for_each_level([&](const Table& t) {
      const Packed p(t, c, w);
      if (first_q.empty()) first_q = p.q, first_scales = p.scales;
      CHECK(p.q == first_q);
      CHECK(p.scales == first_scales);
      const int low = c.format == Format::i8 ? -127 : -8, high = c.format == Format::i8 ? 127 : 7;
      std::vector<float> row(static_cast<size_t>(c.n_cols));
      bool ok = true, same = true;
      for (int64_t r = 0; r < c.n_rows; ++r) {
        t.get_row(p.matrix, r, row.data());
        const int64_t n_groups = (c.n_cols + c.group - 1) / c.group;
        for (int64_t k = 0; k < c.n_cols; ++k) {
          const int q = p.q[static_cast<size_t>(r * c.n_cols + k)];
          const float scale = f16_to_float(p.scales[static_cast<size_t>(r * n_groups + k / c.group)]);
          const float error = std::fabs(w[static_cast<size_t>(r * c.n_cols + k)] - p.weight(r, k));
          ok &= q >= low && q <= high && (error <= 0.501f * scale || q == low || q == high);
          same &= row[static_cast<size_t>(k)] == p.weight(r, k);
        }
      }
      CHECK(ok);
      CHECK(same);
    });
  }
}

TEST_CASE("the int4 scale search is never worse than the plain scale") {
  const std::vector<float> w = random_floats(4096, 17);
  std::vector<int8_t> q(4096);
  std::vector<uint16_t> scales(4096 / 32);
  for_each_level([&](const Table& t) {
    t.quantize_row(Format::i4, 32, w.data(), 4096, q.data(), scales.data());
    double searched = 0, plain = 0;
    for (size_t g = 0; g < scales.size(); ++g) {
      float largest = 0;
      for (size_t i = g * 32; i < g * 32 + 32; ++i) largest = std::max(largest, std::fabs(w[i]));
      const float scale = largest / 7;
      for (size_t i = g * 32; i < g * 32 + 32; ++i) {
        searched += std::pow(w[i] - f16_to_float(scales[g]) * q[i], 2);
        plain += std::pow(w[i] - scale * std::clamp(std::nearbyint(w[i] / scale), -8.0f, 7.0f), 2);
      }
    }
    CHECK(searched < 0.95 * plain);
  });
}

TEST_CASE("zeros, constant rows and denormals quantize to finite values") {
  for (float value : {0.0f, 1.0f, -3.5f, 1e-30f, 60000.0f, 1e9f}) {
    CAPTURE(value);
    const std::vector<float> w(64, value);
    std::vector<int8_t> q(64);
    std::vector<uint16_t> scales(2);
    for_each_level([&](const Table& t) {
      for (Format f : {Format::i8, Format::i4}) {
        t.quantize_row(f, 32, w.data(), 64, q.data(), scales.data());
        CHECK(std::isfinite(f16_to_float(scales[0])));
        if (value == 0.0f) CHECK(q[0] == 0);
        if (std::fabs(value) <= 60000.0f && std::fabs(value) >= 1.0f) {
          CHECK(f16_to_float(scales[0]) * q[5] == doctest::Approx(value).epsilon(0.08));
        }
      }
    });
  }
}

TEST_CASE("matmul: the exact products of the quantized values, for any split of rows and tokens") {
  for (const Case& c : cases) {
    CAPTURE(static_cast<int>(c.format));
    CAPTURE(c.group);
    CAPTURE(c.n_rows);
    CAPTURE(c.n_cols);
    constexpr int64_t n_tokens = 21;
    const std::vector<float> w = random_floats(static_cast<size_t>(c.n_rows * c.n_cols), 5);
    const std::vector<float> x = random_floats(static_cast<size_t>(n_tokens * c.n_cols), 6);
    for_each_level([&](const Table& t) {
      const Packed p(t, c, w, true);
      const std::vector<std::byte> acts = quantized_rows(t, x, n_tokens, c.n_cols, c.n_cols);
      CHECK((acts == quantized_rows(t, x, n_tokens, c.n_cols, 32)));  // by pieces
      const int64_t stride = static_cast<int64_t>(t.act_bytes(c.n_cols));
      std::vector<std::byte> memory(t.scratch_bytes(c.n_cols) + 64);
      void* scratch = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
      std::vector<float> y(static_cast<size_t>(n_tokens * c.n_rows), -1.0f);
      const auto f = static_cast<int>(c.format);
      t.matmul[f](p.matrix, 0, c.n_rows, acts.data(), stride, n_tokens, y.data(), c.n_rows, scratch);

      // Against float64, with the activations quantized by the definition: largest magnitude over 127 in groups of 32; int8 takes what that
      // leaves of few columns, quantized like it, as well.
      double worst = 0;
      for (int64_t i = 0; i < n_tokens; ++i) {
        std::vector<double> a(static_cast<size_t>(c.n_cols));
        for (int64_t g = 0; g < c.n_cols; g += 32) {
          const int64_t end = std::min(c.n_cols, g + 32);
          std::vector<float> left(x.begin() + i * c.n_cols + g, x.begin() + i * c.n_cols + end);
          for (int part = 0; part < (c.format == Format::i8 && c.n_cols < narrow_cols ? 2 : 1); ++part) {
            float largest = 0;
            for (const float v : left) largest = std::max(largest, std::fabs(v));
            const float inverse = largest > 0 ? 127 / largest : 0;
            for (size_t k = 0; k < left.size(); ++k) {
              const float q = std::nearbyint(left[k] * inverse);
              a[static_cast<size_t>(g) + k] += q * double(largest / 127);
              left[k] -= q * (largest / 127);
            }
          }
        }
        for (int64_t r = 0; r < c.n_rows; ++r) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < c.n_cols; ++k) {
            sum += a[static_cast<size_t>(k)] * p.weight(r, k);
            size += std::fabs(a[static_cast<size_t>(k)] * p.weight(r, k));
          }
          worst = std::max(worst, std::fabs(sum - y[static_cast<size_t>(i * c.n_rows + r)]) / std::max(size, 1e-6));
        }
      }
      CHECK(worst < 5e-6);  // a compiler that fuses the lines above tips a second rounding now and then

      for (int64_t row_step : {int64_t{16}, int64_t{48}, int64_t{128}}) {
        for (int64_t token_step : {int64_t{1}, int64_t{2}, int64_t{5}, n_tokens}) {
          std::vector<float> split(y.size(), -2.0f);
          for (int64_t r = 0; r < c.n_rows; r += row_step) {
            for (int64_t i = 0; i < n_tokens; i += token_step) {
              t.matmul[f](p.matrix, r, std::min(c.n_rows, r + row_step), acts.data() + i * stride, stride,
                          std::min(token_step, n_tokens - i), split.data() + i * c.n_rows, c.n_rows, scratch);
            }
          }
          CHECK(std::memcmp(split.data(), y.data(), y.size() * sizeof(float)) == 0);
        }
      }
    });
  }
}

namespace {

struct Mxfp4Case {
  int64_t n_rows, n_cols;
};

const Mxfp4Case mxfp4_cases[] = {{16, 32}, {1, 32}, {5, 64}, {47, 96}, {130, 160}, {64, 2880}, {208, 288}};

/// A matrix of drawn codes and exponents; the values are written here from the format's definition.
struct Mxfp4Matrix {
  std::vector<double> values;  // [n_rows][n_cols]
  std::vector<std::byte> blocks;
  int64_t n_rows, n_cols;

  Mxfp4Matrix(const Table& t, const Mxfp4Case& c, int lowest, int highest) : n_rows(c.n_rows), n_cols(c.n_cols) {
    constexpr double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    std::mt19937 rng(11);
    std::vector<int8_t> q;
    std::vector<uint16_t> scales;
    for (int64_t i = 0; i < n_rows * n_cols; ++i) {
      if (i % 32 == 0) scales.push_back(static_cast<uint16_t>(lowest + static_cast<int>(rng() % static_cast<unsigned>(highest - lowest + 1))));
      const unsigned code = rng() % 16;
      q.push_back(static_cast<int8_t>(code));
      values.push_back(std::ldexp(code < 8 ? e2m1[code] : -e2m1[code - 8], scales.back() - 127));
    }
    const size_t block = t.packed_block_bytes(Format::mxfp4, n_cols, 32);
    CHECK(block == t.packed_block_bytes(Format::mxfp4_i8, n_cols, 32));
    CHECK(block % 64 == 0);
    CHECK(static_cast<int64_t>(block) <= pack_rows * (n_cols / 2 + n_cols / 32) + 48);
    blocks.resize(block * static_cast<size_t>((n_rows + pack_rows - 1) / pack_rows));
    for (int64_t r = 0; r < n_rows; r += pack_rows) {
      t.pack_block(Format::mxfp4, 32, q.data() + r * n_cols, scales.data() + r * n_cols / 32, static_cast<int>(std::min<int64_t>(pack_rows, n_rows - r)),
                   n_cols, blocks.data() + block * static_cast<size_t>(r / pack_rows));
    }
  }
  Matrix matrix(Format format) const { return {blocks.data(), n_rows, n_cols, format, 32}; }
};

}  // namespace

TEST_CASE("MXFP4: every value comes back from the blocks, of every exponent") {
  for (const Mxfp4Case& c : mxfp4_cases) {
    CAPTURE(c.n_rows);
    CAPTURE(c.n_cols);
    for_each_level([&](const Table& t) {
      const Mxfp4Matrix m(t, c, 0, 251);  // beyond, 6 * 2^(e - 127) is no finite float
      for (const Format format : {Format::mxfp4, Format::mxfp4_i8}) {
        std::vector<float> row(static_cast<size_t>(c.n_cols));
        bool same = true;
        for (int64_t r = 0; r < c.n_rows; ++r) {
          t.get_row(m.matrix(format), r, row.data());
          for (int64_t k = 0; k < c.n_cols; ++k) same &= row[static_cast<size_t>(k)] == m.values[static_cast<size_t>(r * c.n_cols + k)];
        }
        CHECK(same);
      }
    });
  }
}

TEST_CASE("MXFP4 matmul: sums of the exact values with float32 or int8 activations, for any split of rows and tokens") {
  for (const Mxfp4Case& c : mxfp4_cases) {
    CAPTURE(c.n_rows);
    CAPTURE(c.n_cols);
    constexpr int64_t n_tokens = 41;
    const std::vector<float> x = random_floats(static_cast<size_t>(n_tokens * c.n_cols), 6);
    for_each_level([&](const Table& t) {
      const Mxfp4Matrix m(t, c, 115, 125);
      for (const Format format : {Format::mxfp4, Format::mxfp4_i8}) {
        CAPTURE(static_cast<int>(format));
        // What the kernel multiplies with: x itself, or x quantized by the definition (largest magnitude over 127 in groups of 32).
        const bool quantized = has_int8_activations(format);
        std::vector<double> a(x.begin(), x.end());
        for (size_t g = 0; quantized && g < a.size(); g += 32) {
          float largest = 0;
          for (size_t k = g; k < g + 32; ++k) largest = std::max(largest, std::fabs(x[k]));
          for (size_t k = g; k < g + 32; ++k) a[k] = std::nearbyint(x[k] * (127 / largest)) * double(largest / 127);
        }
        const std::vector<std::byte> acts = quantized_rows(t, x, n_tokens, c.n_cols, c.n_cols);
        const auto* rows = quantized ? acts.data() : reinterpret_cast<const std::byte*>(x.data());
        const int64_t stride = quantized ? static_cast<int64_t>(t.act_bytes(c.n_cols)) : c.n_cols * static_cast<int64_t>(sizeof(float));
        std::vector<std::byte> memory(t.scratch_bytes(c.n_cols) + 64);
        void* scratch = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
        std::vector<float> y(static_cast<size_t>(n_tokens * c.n_rows), -1.0f);
        const auto f = static_cast<int>(format);
        t.matmul[f](m.matrix(format), 0, c.n_rows, rows, stride, n_tokens, y.data(), c.n_rows, scratch);
        double worst = 0;
        for (int64_t i = 0; i < n_tokens; ++i) {
          for (int64_t r = 0; r < c.n_rows; ++r) {
            double sum = 0, size = 1e-9;
            for (int64_t k = 0; k < c.n_cols; ++k) {
              const double product = a[static_cast<size_t>(i * c.n_cols + k)] * m.values[static_cast<size_t>(r * c.n_cols + k)];
              sum += product;
              size += std::fabs(product);
            }
            worst = std::max(worst, std::fabs(sum - y[static_cast<size_t>(i * c.n_rows + r)]) / size);
          }
        }
        CHECK(worst < 2e-6);
        for (int64_t row_step : {int64_t{16}, int64_t{48}, int64_t{128}}) {
          for (int64_t token_step : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{5}, int64_t{14}, n_tokens}) {
            std::vector<float> split(y.size(), -2.0f);
            for (int64_t r = 0; r < c.n_rows; r += row_step) {
              for (int64_t i = 0; i < n_tokens; i += token_step) {
                t.matmul[f](m.matrix(format), r, std::min(c.n_rows, r + row_step), rows + i * stride, stride, std::min(token_step, n_tokens - i),
                            split.data() + i * c.n_rows, c.n_rows, scratch);
              }
            }
            CHECK(std::memcmp(split.data(), y.data(), y.size() * sizeof(float)) == 0);
          }
        }
      }
    });
  }
}

TEST_CASE("MXFP4: levels with a fused multiply-add agree to the last bit") {
  const Mxfp4Case c = {96, 480};
  const std::vector<float> x = random_floats(static_cast<size_t>(c.n_cols), 9);
  std::vector<float> first;
  for_each_level([&](const Table& t) {
    if (std::strcmp(t.name, "generic") == 0) return;
    const Mxfp4Matrix m(t, c, 115, 125);
    std::vector<float> y(static_cast<size_t>(c.n_rows));
    t.matmul[static_cast<int>(Format::mxfp4)](m.matrix(Format::mxfp4), 0, c.n_rows, x.data(), 0, 1, y.data(), c.n_rows, nullptr);
    if (first.empty()) first = y;
    CHECK(y == first);
  });
}

TEST_CASE("levels with a fused multiply-add agree to the last bit") {
  const Case c = {Format::i4, 64, 96, 300};
  const std::vector<float> w = random_floats(static_cast<size_t>(c.n_rows * c.n_cols), 8), x = random_floats(static_cast<size_t>(c.n_cols), 9);
  std::vector<float> first;
  for_each_level([&](const Table& t) {
#if defined(__x86_64__)
    if (std::strcmp(t.name, "generic") == 0) return;  // the baseline has none
#endif
    const Packed p(t, c, w);
    const std::vector<std::byte> acts = quantized_rows(t, x, 1, c.n_cols, c.n_cols);
    std::vector<std::byte> memory(t.scratch_bytes(c.n_cols) + 64);
    std::vector<float> y(static_cast<size_t>(c.n_rows));
    t.matmul[static_cast<int>(c.format)](p.matrix, 0, c.n_rows, acts.data(), static_cast<int64_t>(acts.size()), 1, y.data(), c.n_rows,
                                         memory.data());
    if (first.empty()) first = y;
    CHECK(y == first);
  });
}
