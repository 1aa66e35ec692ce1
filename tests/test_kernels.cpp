// Every operation on every usable ISA level against plain double precision; bit-equality under any split of the work; no access
// outside the operands (they end at an unmapped page). `qemu-x86_64 -cpu Nehalem test_kernels` runs the lesser levels.
#include "kernels/kernels.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu.h"

using namespace engine::kernels;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

std::vector<const Table*> usable_tables() {
  int n = 0;
  const Level* all = levels(&n);
  std::vector<const Table*> tables;
  for (int i = 0; i < n; ++i) {
    if (all[i].usable) tables.push_back(all[i].table);
  }
  return tables;
}

/// n elements that end exactly where an unmapped page begins.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n, T fill = T{}) : n_(n) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t body = (n * sizeof(T) + page) / page * page;
    size_ = body + page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(base_ != MAP_FAILED);
    REQUIRE(mprotect(base_ + body, page, PROT_NONE) == 0);
    data_ = reinterpret_cast<T*>(base_ + body - n * sizeof(T));
    for (size_t i = 0; i < n; ++i) data_[i] = fill;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }
  T* data() { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return n_; }
  T* begin() { return data_; }
  T* end() { return data_ + n_; }

 private:
  size_t n_, size_;
  char* base_;
  T* data_;
};

struct AlignedFree {
  void operator()(void* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<void, AlignedFree>;
Scratch make_scratch(size_t bytes) { return Scratch(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

void fill_normal(float* x, size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  for (size_t i = 0; i < n; ++i) x[i] = normal(rng);
}

bool same_bits(const float* a, const float* b, size_t n) { return n == 0 || std::memcmp(a, b, n * sizeof(float)) == 0; }

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// --- reference conversions, written from the formats' definitions ------------------------------------------------------------

double f16_value(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double sign = h & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}
double bf16_value(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

/// The nearest bfloat16 of a finite x, ties to even, by comparing neighbours.
uint16_t bf16_of(float x) {
  const uint16_t down = static_cast<uint16_t>(bits_of(x) >> 16);
  const uint16_t up = static_cast<uint16_t>(down + 1);
  const double to_down = std::fabs(bf16_value(down) - static_cast<double>(x));
  const double to_up = std::fabs(std::isinf(bf16_value(up)) ? std::copysign(0x1p128, x) - static_cast<double>(x)
                                                            : bf16_value(up) - static_cast<double>(x));
  if (to_down < to_up) return down;
  if (to_up < to_down) return up;
  return (down & 1) == 0 ? down : up;
}

const char* format_name(Format format) {
  static const char* const names[] = {"f32", "bf16", "f16"};
  return names[static_cast<int>(format)];
}

size_t format_bytes(Format format) { return format == Format::f32 ? 4 : 2; }

/// A random matrix in guarded memory with its exact values.
struct TestMatrix {
  TestMatrix(Format f, int64_t n_rows, int64_t n_cols, uint32_t seed)
      : bytes(static_cast<size_t>(n_rows * n_cols) * format_bytes(f)), values(static_cast<size_t>(n_rows * n_cols)) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    for (size_t i = 0; i < values.size(); ++i) {
      const float x = normal(rng);
      if (f == Format::f32) {
        std::memcpy(bytes.data() + 4 * i, &x, 4);
        values[i] = x;
      } else {
        // Any finite bit pattern of a middling exponent serves as a random half.
        const uint16_t h = f == Format::bf16 ? bf16_of(x) : static_cast<uint16_t>((rng() & 0x83ffu) | (12u + rng() % 4u) << 10);
        std::memcpy(bytes.data() + 2 * i, &h, 2);
        values[i] = f == Format::bf16 ? bf16_value(h) : f16_value(h);
      }
    }
    matrix = {bytes.data(), n_rows, n_cols, f};
  }
  Guarded<char> bytes;
  std::vector<double> values;
  Matrix matrix;
};

}  // namespace

// --- levels -------------------------------------------------------------------------------------------------------------------

TEST_CASE("the bandwidth probe reads every byte") {
  std::vector<uint8_t> data(4096, 7);
  for (const Table* t : usable_tables()) {
    const uint64_t before = t->read_all(data.data(), data.size());
    for (const size_t i : {size_t{0}, size_t{63}, size_t{1023}, size_t{1024}, size_t{2500}, size_t{4095}}) {
      CAPTURE(i);
      data[i] = 8;
      CHECK(t->read_all(data.data(), data.size()) != before);
      data[i] = 7;
    }
  }
}

TEST_CASE("levels are complete, named, and chosen by what the CPU can do") {
  int n = 0;
  const Level* all = levels(&n);
  REQUIRE(n >= 1);
  CHECK(std::string(all[0].name) == "generic");
  CHECK(all[0].usable);
  const char* best = nullptr;
  for (int i = 0; i < n; ++i) {
    INFO("level: ", std::string(all[i].name));
    REQUIRE(all[i].table != nullptr);
    CHECK(std::string(all[i].table->name) == all[i].name);
    for (int f = 0; f < n_float_formats; ++f) {
      CHECK((all[i].table->matmul[f] != nullptr));
      CHECK(all[i].table->row_grain[f] >= 1);
    }
    if (all[i].usable) best = all[i].name;
  }
  CHECK(std::string(table().name) == best);
  CHECK_FALSE(select("no such level"));
  for (int i = 0; i < n; ++i) {
    INFO("level: ", std::string(all[i].name));
    const std::string before = table().name;
    CHECK(select(all[i].name) == all[i].usable);
    CHECK(std::string(table().name) == (all[i].usable ? std::string(all[i].name) : before));
  }
  REQUIRE(select(best));
#if defined(__x86_64__)
  const CpuFeatures cpu = detect_cpu();
  CHECK((!cpu.avx512 || cpu.avx2));
  CHECK((!cpu.avx512_vnni || cpu.avx512));
  CHECK((!cpu.avx512_bf16 || cpu.avx512_vnni));
  CHECK((!cpu.avx_vnni || cpu.avx2));
  CHECK(n == 6);
  CHECK(all[1].usable == cpu.avx2);
#if defined(__GNUC__) && !defined(__clang__)
  CHECK(cpu.avx2 == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
  CHECK(cpu.avx512 == (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl")));
#endif
#elif defined(__aarch64__)
  const CpuFeatures cpu = detect_cpu();
  CHECK((!cpu.i8mm || cpu.dotprod));
  REQUIRE(n == 4);
  CHECK(all[1].usable);
  CHECK(all[2].usable == cpu.dotprod);
  CHECK(all[3].usable == cpu.i8mm);
#else
  CHECK(n == 1);
#endif
}

// --- matmul -------------------------------------------------------------------------------------------------------------------

TEST_CASE("matmul is near double precision, for every format and odd size") {
  struct Size {
    int64_t n_rows, n_cols, n_tokens;
  };
  const Size sizes[] = {{0, 5, 3},   {4, 8, 0},    {1, 1, 1},    {1, 7, 1},     {4, 8, 1},     {5, 16, 2},    {7, 17, 3},
                        {3, 33, 4},  {8, 64, 7},   {9, 63, 8},   {66, 65, 9},   {13, 130, 17}, {70, 515, 13}, {12, 896, 6},
                        {6, 1030, 5}, {129, 90, 100}, {5, 4864, 1}, {64, 1024, 97}, {2, 0, 2},  {3, 0, 9}};
  for (const Table* t : usable_tables()) {
    for (int f = 0; f < n_float_formats; ++f) {
      for (const Size& s : sizes) {
        INFO("level: ", std::string(t->name));
        INFO("format: ", std::string(format_name(static_cast<Format>(f))));
        CAPTURE(s.n_rows);
        CAPTURE(s.n_cols);
        CAPTURE(s.n_tokens);
        TestMatrix w(static_cast<Format>(f), s.n_rows, s.n_cols, 1);
        const int64_t x_stride = s.n_cols + 3, y_stride = s.n_rows + 2;
        Guarded<float> x(s.n_tokens == 0 ? 0 : static_cast<size_t>((s.n_tokens - 1) * x_stride + s.n_cols));
        Guarded<float> y(s.n_tokens == 0 ? 0 : static_cast<size_t>((s.n_tokens - 1) * y_stride + s.n_rows), -77.0f);
        fill_normal(x.data(), x.size(), 2);
        const Scratch scratch = make_scratch(t->scratch_bytes(s.n_cols));
        t->matmul[f](w.matrix, 0, s.n_rows, x.data(), x_stride * sizeof(float), s.n_tokens, y.data(), y_stride, scratch.get());
        double worst = 0;
        int64_t touched_gaps = 0;
        for (int64_t token = 0; token < s.n_tokens; ++token) {
          for (int64_t r = 0; r < s.n_rows; ++r) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < s.n_cols; ++k) {
              const double product = w.values[static_cast<size_t>(r * s.n_cols + k)] *
                                     static_cast<double>(x[static_cast<size_t>(token * x_stride + k)]);
              sum += product;
              size += std::fabs(product);
            }
            const double error = std::fabs(static_cast<double>(y[static_cast<size_t>(token * y_stride + r)]) - sum);
            worst = std::fmax(worst, size == 0 ? error : error / size);
          }
          if (token + 1 < s.n_tokens) {
            touched_gaps += y[static_cast<size_t>(token * y_stride + s.n_rows)] != -77.0f;
            touched_gaps += y[static_cast<size_t>(token * y_stride + s.n_rows + 1)] != -77.0f;
          }
        }
        // One rounding a step, at most n_cols / 4 steps a lane; the usual case is their square root.
        CHECK(worst <= 6e-8 * (4 + 2 * std::sqrt(static_cast<double>(s.n_cols) / 4)));
        CHECK(touched_gaps == 0);
      }
    }
  }
}

TEST_CASE("matmul gives the same bits however rows and tokens are split") {
  for (const Table* t : usable_tables()) {
    for (int f = 0; f < n_float_formats; ++f) {
      for (const int64_t n_cols : {72, 515, 1100}) {
        INFO("level: ", std::string(t->name));
        INFO("format: ", std::string(format_name(static_cast<Format>(f))));
        CAPTURE(n_cols);
        const int64_t n_rows = 75, n_tokens = 203;
        TestMatrix w(static_cast<Format>(f), n_rows, n_cols, 3);
        std::vector<float> x(static_cast<size_t>(n_tokens * n_cols));
        fill_normal(x.data(), x.size(), 4);
        const Scratch scratch = make_scratch(t->scratch_bytes(n_cols));
        const auto run = [&](int64_t row_step, int64_t token_step) {
          std::vector<float> y(static_cast<size_t>(n_tokens * n_rows));
          for (int64_t token = 0; token < n_tokens; token += token_step) {
            for (int64_t r = 0; r < n_rows; r += row_step) {
              t->matmul[f](w.matrix, r, std::min(r + row_step, n_rows), x.data() + token * n_cols, n_cols * sizeof(float),
                           std::min(token_step, n_tokens - token), y.data() + token * n_rows, n_rows, scratch.get());
            }
          }
          return y;
        };
        const std::vector<float> whole = run(n_rows, n_tokens);
        const int64_t grain = t->row_grain[f];
        for (const auto& [row_step, token_step] : {std::pair<int64_t, int64_t>{n_rows, 1}, {n_rows, 2}, {n_rows, 3}, {n_rows, 7},
                                                   {n_rows, 8}, {n_rows, 50}, {grain, n_tokens}, {grain, 1}, {grain * 3, 5},
                                                   {(64 + grain - 1) / grain * grain, 64}}) {
          CAPTURE(row_step);
          CAPTURE(token_step);
          const std::vector<float> split = run(row_step, token_step);
          CHECK(same_bits(split.data(), whole.data(), whole.size()));
        }
      }
    }
  }
}

TEST_CASE("matmul keeps NaN and infinity to their own row and token") {
  for (const Table* t : usable_tables()) {
    for (const int64_t n_tokens : {1, 5, 30}) {
      INFO("level: ", std::string(t->name));
      CAPTURE(n_tokens);
      const int64_t n_rows = 10, n_cols = 37;
      std::vector<float> w(static_cast<size_t>(n_rows * n_cols), 1.0f), x(static_cast<size_t>(n_tokens * n_cols), 2.0f);
      w[3 * n_cols + 36] = inf;
      x[static_cast<size_t>((n_tokens - 1) * n_cols)] = nan_value;
      std::vector<float> y(static_cast<size_t>(n_tokens * n_rows));
      const Scratch scratch = make_scratch(t->scratch_bytes(n_cols));
      t->matmul[0]({w.data(), n_rows, n_cols, Format::f32}, 0, n_rows, x.data(), n_cols * sizeof(float), n_tokens, y.data(), n_rows, scratch.get());
      for (int64_t token = 0; token < n_tokens; ++token) {
        for (int64_t r = 0; r < n_rows; ++r) {
          const float value = y[static_cast<size_t>(token * n_rows + r)];
          if (token == n_tokens - 1) {
            CHECK(std::isnan(value));
          } else if (r == 3) {
            CHECK(value == inf);
          } else {
            CHECK(value == 74.0f);
          }
        }
      }
    }
  }
}

TEST_CASE("get_row widens all 65536 halves exactly") {
  for (const Table* t : usable_tables()) {
    for (const Format format : {Format::bf16, Format::f16}) {
      std::vector<uint16_t> all(65536);
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
      std::vector<float> out(257);
      int64_t wrong = 0;
      // 65535 = 255 * 257: rows of an odd length, the last one cut off by the matrix' own end.
      for (int64_t row = 0; row < 255; ++row) {
        t->get_row({all.data(), 255, 257, format}, row, out.data());
        for (int64_t k = 0; k < 257; ++k) {
          const auto h = static_cast<uint16_t>(row * 257 + k);
          const double expected = format == Format::bf16 ? bf16_value(h) : f16_value(h);
          const double got = out[static_cast<size_t>(k)];
          if (std::isnan(expected) ? !std::isnan(got) : (got != expected || std::signbit(got) != std::signbit(expected))) ++wrong;
        }
      }
      INFO("level: ", std::string(t->name));
      INFO("format: ", std::string(format_name(format)));
      CHECK(wrong == 0);
    }
    TestMatrix w(Format::f32, 3, 19, 5);
    Guarded<float> out(19);
    t->get_row(w.matrix, 2, out.data());
    CHECK(same_bits(out.data(), reinterpret_cast<const float*>(w.matrix.data) + 38, 19));
  }
}

// --- vectors --------------------------------------------------------------------------------------------------------------------

namespace {

const int64_t lengths[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 127, 128, 896, 1001};

/// Runs op(x, y, n) on guarded copies for all lengths and compares with expected(i) within `relative` of it (or `absolute`).
template <class Op, class Expected>
void check_vector(const char* what, Op op, Expected expected, double relative, double absolute) {
  for (const Table* t : usable_tables()) {
    for (const int64_t n : lengths) {
      INFO("operation: ", std::string(what));
      INFO("level: ", std::string(t->name));
      CAPTURE(n);
      Guarded<float> a(static_cast<size_t>(n)), b(static_cast<size_t>(n)), y(static_cast<size_t>(n));
      fill_normal(a.data(), a.size(), 6, 3.0f);
      fill_normal(b.data(), b.size(), 7);
      fill_normal(y.data(), y.size(), 8);
      const std::vector<float> before(y.begin(), y.end());
      op(*t, a.data(), b.data(), y.data(), n);
      double worst = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double e = expected(a.data(), b.data(), before.data(), n, i);
        worst = std::fmax(worst, std::fabs(static_cast<double>(y[static_cast<size_t>(i)]) - e) / (relative * std::fabs(e) + absolute));
      }
      CHECK(worst <= 1.0);
    }
  }
}

double d(float x) { return static_cast<double>(x); }

double rms_factor(const float* x, int64_t n, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += d(x[i]) * d(x[i]);
  return 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
}

double reference_activation(Activation kind, double x) {
  switch (kind) {
    case Activation::silu: return x / (1.0 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::relu2: return x > 0 ? x * x : 0;
    case Activation::count: break;
  }
  return 0;
}

}  // namespace

TEST_CASE("norms") {
  check_vector("rms_norm", [](const Table& t, const float* a, const float* b, float* y, int64_t n) { t.rms_norm(a, b, 1e-5f, y, n); },
               [](const float* a, const float* b, const float*, int64_t n, int64_t i) { return d(a[i]) * rms_factor(a, n, d(1e-5f)) * d(b[i]); },
               4e-7, 0);
  check_vector("rms_norm without weight, in place",
               [](const Table& t, const float* a, const float*, float* y, int64_t n) {
                 if (n > 0) std::memcpy(y, a, static_cast<size_t>(n) * 4);
                 t.rms_norm(y, nullptr, 1e-6f, y, n);
               },
               [](const float* a, const float*, const float*, int64_t n, int64_t i) { return d(a[i]) * rms_factor(a, n, d(1e-6f)); }, 4e-7, 0);
  const auto layer = [](const float* a, int64_t n, int64_t i) {
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < n; ++j) mean += d(a[j]) / static_cast<double>(n);
    for (int64_t j = 0; j < n; ++j) variance += (d(a[j]) - mean) * (d(a[j]) - mean) / static_cast<double>(n);
    return (d(a[i]) - mean) / std::sqrt(variance + d(1e-5f));
  };
  check_vector("layer_norm", [](const Table& t, const float* a, const float* b, float* y, int64_t n) { t.layer_norm(a, b, a, 1e-5f, y, n); },
               [&](const float* a, const float* b, const float*, int64_t n, int64_t i) { return layer(a, n, i) * d(b[i]) + d(a[i]); }, 1e-6, 1e-5);
  check_vector("layer_norm, bare", [](const Table& t, const float* a, const float*, float* y, int64_t n) { t.layer_norm(a, nullptr, nullptr, 1e-5f, y, n); },
               [&](const float* a, const float*, const float*, int64_t n, int64_t i) { return layer(a, n, i); }, 1e-6, 1e-5);
}

TEST_CASE("elementwise") {
  check_vector("add", [](const Table& t, const float* a, const float* b, float* y, int64_t n) { t.add(a, b, y, n); },
               [](const float* a, const float* b, const float*, int64_t, int64_t i) { return d(a[i] + b[i]); }, 0, 1e-300);
  check_vector("add_scaled", [](const Table& t, const float* a, const float*, float* y, int64_t n) { t.add_scaled(a, 0.37f, y, n); },
               [](const float* a, const float*, const float* y, int64_t, int64_t i) { return d(y[i]) + d(a[i]) * d(0.37f); }, 2e-7, 1e-6);
  check_vector("scale", [](const Table& t, const float*, const float*, float* y, int64_t n) { t.scale(y, -1.7f, n); },
               [](const float*, const float*, const float* y, int64_t, int64_t i) { return d(y[i] * -1.7f); }, 0, 1e-300);
  check_vector("clamp", [](const Table& t, const float*, const float*, float* y, int64_t n) { t.clamp(y, -0.5f, 0.75f, n); },
               [](const float*, const float*, const float* y, int64_t, int64_t i) { return std::fmin(std::fmax(d(y[i]), -0.5), 0.75); }, 0, 1e-300);
  check_vector("softcap", [](const Table& t, const float*, const float*, float* y, int64_t n) { t.softcap(y, 1.5f, n); },
               [](const float*, const float*, const float* y, int64_t, int64_t i) { return 1.5 * std::tanh(d(y[i]) / 1.5); }, 4e-7, 1e-30);
}

TEST_CASE("activations") {
  for (int k = 0; k < static_cast<int>(Activation::count); ++k) {
    const auto kind = static_cast<Activation>(k);
    CAPTURE(k);
    // gelu's and gelu_tanh's 1 + erf cancels for negative x, in torch as here: absolute there.
    check_vector("gated", [=](const Table& t, const float* a, const float* b, float* y, int64_t n) { t.gated_activation(kind, a, b, y, n); },
                 [=](const float* a, const float* b, const float*, int64_t, int64_t i) { return reference_activation(kind, d(a[i])) * d(b[i]); },
                 6e-7, 3e-6);
    check_vector("in place, without up",
                 [=](const Table& t, const float* a, const float*, float* y, int64_t n) {
                   if (n > 0) std::memcpy(y, a, static_cast<size_t>(n) * 4);
                   t.gated_activation(kind, y, nullptr, y, n);
                 },
                 [=](const float* a, const float*, const float*, int64_t, int64_t i) { return reference_activation(kind, d(a[i])); }, 6e-7, 1e-6);
  }
}

TEST_CASE("the clamped SwiGLU") {
  const auto f = [](double gate, double up, double limit) {
    const double a = std::fmin(gate, limit), b = std::fmax(-limit, std::fmin(up, limit));
    return (b + 1) * a / (1 + std::exp(-1.702 * a));
  };
  for (const float limit : {0.75f, 7.0f}) {
    CAPTURE(limit);
    check_vector("clamped_swiglu", [=](const Table& t, const float* a, const float* b, float* y, int64_t n) { t.clamped_swiglu(a, b, limit, y, n); },
                 [=](const float* a, const float* b, const float*, int64_t, int64_t i) { return f(d(a[i]), d(b[i]), d(limit)); }, 6e-7, 3e-6);
  }
}

TEST_CASE("activations at the edges: saturated, infinite and NaN inputs") {
  for (const Table* t : usable_tables()) {
    for (int k = 0; k < static_cast<int>(Activation::count); ++k) {
      INFO("level: ", std::string(t->name));
      CAPTURE(k);
      const float x[] = {200.0f, -200.0f, 1e15f, inf, nan_value, 0.0f};
      float y[6];
      const auto kind = static_cast<Activation>(k);
      t->gated_activation(kind, x, nullptr, y, 6);
      CHECK(y[0] == (kind == Activation::relu2 ? 40000.0f : 200.0f));
      CHECK(y[1] == 0.0f);
      CHECK(y[2] == (kind == Activation::relu2 ? 1e15f * 1e15f : 1e15f));
      CHECK(y[3] == inf);
      CHECK(std::isnan(y[4]));
      CHECK(y[5] == 0.0f);
    }
  }
}

TEST_CASE("rope rotates pairs, split and interleaved") {
  for (const Table* t : usable_tables()) {
    for (const int64_t half : {0, 1, 3, 4, 8, 12, 16, 32, 40, 64}) {
      INFO("level: ", std::string(t->name));
      CAPTURE(half);
      const auto n = static_cast<size_t>(half);
      Guarded<float> x(2 * n), z(2 * n), cosines(n), sines(n);
      fill_normal(x.data(), x.size(), 9);
      std::copy(x.begin(), x.end(), z.begin());
      const std::vector<float> before(x.begin(), x.end());
      for (size_t i = 0; i < n; ++i) cosines[i] = std::cos(static_cast<float>(i)), sines[i] = std::sin(static_cast<float>(i));
      t->rope(x.data(), cosines.data(), sines.data(), half);
      t->rope_interleaved(z.data(), cosines.data(), sines.data(), half);
      double worst = 0;
      for (size_t i = 0; i < n; ++i) {
        const auto check = [&](float got_a, float got_b, float a, float b) {
          worst = std::fmax(worst, std::fabs(d(got_a) - (d(a) * d(cosines[i]) - d(b) * d(sines[i]))));
          worst = std::fmax(worst, std::fabs(d(got_b) - (d(b) * d(cosines[i]) + d(a) * d(sines[i]))));
        };
        check(x[i], x[i + n], before[i], before[i + n]);
        check(z[2 * i], z[2 * i + 1], before[2 * i], before[2 * i + 1]);
      }
      CHECK(worst <= 5e-7);
    }
  }
}

TEST_CASE("max and argmax: first of equals, NaN never wins, empty input") {
  struct Case {
    std::vector<float> x;
    float max;
    int64_t argmax;
  };
  std::vector<float> late(5000, -1.0f), tie(5000, 2.0f), nans(5000, nan_value), one(5000, nan_value), lowest(5000, -inf);
  late[4999] = 0.5f;
  tie[0] = 1.0f;
  one[3210] = -8.0f;
  std::vector<float> mixed(100, -inf);
  mixed[40] = nan_value, mixed[41] = 3.0f, mixed[90] = 3.0f;
  const Case cases[] = {{{}, -inf, 0}, {{-3.0f}, -3.0f, 0}, {{nan_value}, -inf, 0}, {{nan_value, -inf}, -inf, 0},
                        {{1.0f, inf, nan_value, inf}, inf, 1}, {late, 0.5f, 4999}, {tie, 2.0f, 1}, {nans, -inf, 0},
                        {one, -8.0f, 3210}, {lowest, -inf, 0}, {mixed, 3.0f, 41}};
  for (const Table* t : usable_tables()) {
    for (const Case& c : cases) {
      INFO("level: ", std::string(t->name));
      CAPTURE(c.x.size());
      Guarded<float> x(c.x.size());
      std::copy(c.x.begin(), c.x.end(), x.begin());
      CHECK(t->max(x.data(), static_cast<int64_t>(x.size())) == c.max);
      CHECK(t->argmax(x.data(), static_cast<int64_t>(x.size())) == c.argmax);
    }
    for (int64_t n = 1; n < 140; ++n) {
      for (int64_t at = 0; at < n; ++at) {
        Guarded<float> x(static_cast<size_t>(n), -4.0f);
        x[static_cast<size_t>(at)] = 4.0f;
        if (t->argmax(x.data(), n) != at || t->max(x.data(), n) != 4.0f) FAIL_CHECK(std::string(t->name), ": n ", n, ", at ", at);
      }
    }
  }
}

TEST_CASE("exp_sum: exp within 2 units in the last place, summed in double") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    double worst = 0;
    for (const int64_t n : {0, 1, 5, 8, 9, 33, 1000, 100003}) {
      CAPTURE(n);
      Guarded<float> x(static_cast<size_t>(n)), y(static_cast<size_t>(n));
      double expected = 0;
      for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = 3.0f - 90.0f * static_cast<float>(i) / static_cast<float>(n);
      const double sum = t->exp_sum(x.data(), 3.0f, y.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        const float shifted = x[static_cast<size_t>(i)] - 3.0f;
        const double e = std::exp(d(shifted));
        expected += e;
        if (shifted < -87.3f) continue;  // results are subnormal, or flushed to zero below -88
        const double ulp = d(std::nextafter(static_cast<float>(e), inf)) - d(static_cast<float>(e));
        worst = std::fmax(worst, std::fabs(d(y[static_cast<size_t>(i)]) - e) / ulp);
      }
      CHECK(sum == doctest::Approx(expected).epsilon(1e-7));
      const double in_place = t->exp_sum(x.data(), 3.0f, x.data(), n);
      CHECK(in_place == sum);
      CHECK(same_bits(x.data(), y.data(), x.size()));
    }
    CHECK(worst < 2.0);
    float edge[] = {-inf, nan_value, -1000.0f, 3.0f};
    float out[4];
    CHECK(std::isnan(t->exp_sum(edge, 3.0f, out, 4)));
    CHECK(out[0] == 0.0f);
    CHECK(std::isnan(out[1]));
    CHECK(out[2] == 0.0f);
    CHECK(out[3] == 1.0f);
  }
}

TEST_CASE("an element's value does not depend on where it lies in the vector") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    std::vector<float> x(100), whole(100), part(100);
    fill_normal(x.data(), x.size(), 10, 2.0f);
    for (int k = 0; k < static_cast<int>(Activation::count); ++k) {
      t->gated_activation(static_cast<Activation>(k), x.data(), nullptr, whole.data(), 100);
      for (int64_t from : {1, 2, 5, 9, 17}) {
        t->gated_activation(static_cast<Activation>(k), x.data() + from, nullptr, part.data(), 100 - from - 1);
        CHECK(same_bits(part.data(), whole.data() + from, static_cast<size_t>(99 - from)));
      }
    }
    t->exp_sum(x.data(), 1.0f, whole.data(), 100);
    t->exp_sum(x.data() + 3, 1.0f, part.data(), 90);
    CHECK(same_bits(part.data(), whole.data() + 3, 90));
  }
}

// --- attention ------------------------------------------------------------------------------------------------------------------

namespace {

/// A sequence's KV blocks for one head, in guarded memory, with slots never written holding NaN.
struct TestCache {
  TestCache(const Table& t, KvFormat kv, int d_head_, int n_tokens_, uint32_t seed) : format(kv), d_head(d_head_), n_tokens(n_tokens_) {
    const auto n = static_cast<size_t>(n_tokens * d_head);
    k.resize(n), v.resize(n);
    fill_normal(k.data(), n, seed);
    fill_normal(v.data(), n, seed + 1);
    const size_t bytes = t.kv_bytes(format, d_head);
    for (int i = 0; i < (n_tokens + kv_block_tokens - 1) / kv_block_tokens; ++i) {
      memory.push_back(std::make_unique<Guarded<std::byte>>(bytes + offset, std::byte{0xff}));
      blocks.push_back(memory.back()->data());
    }
    for (int i = 0; i < n_tokens; ++i) {
      const size_t at = static_cast<size_t>(i * d_head);
      t.kv_store(format, &k[at], &v[at], d_head, i % kv_block_tokens, memory[static_cast<size_t>(i / kv_block_tokens)]->data() + offset);
    }
    if (format == KvFormat::i8) {
      for (int i = 0; i < n_tokens; ++i) {
        read_int8(i, true, k.data() + i * d_head);
        read_int8(i, false, v.data() + i * d_head);
      }
    }
    if (format == KvFormat::bf16) {
      for (float& x : k) x = static_cast<float>(bf16_value(bf16_of(x)));
      for (float& x : v) x = static_cast<float>(bf16_value(bf16_of(x)));
    }
  }
  /// x, a token's K or V, becomes what was stored for it: int8 with one scale, which is no worse than the largest magnitude over 127.
  void read_int8(int token, bool is_k, float* x) const {
    const int slot = token % kv_block_tokens;
    const std::byte* part = memory[static_cast<size_t>(token / kv_block_tokens)]->data() + offset;
    const auto* bytes = reinterpret_cast<const int8_t*>(part) + (is_k ? 0 : kv_block_tokens * d_head);
    float scale;
    std::memcpy(&scale, part + 2 * kv_block_tokens * d_head + (slot + (is_k ? 0 : kv_block_tokens)) * 4, sizeof scale);
    float largest = 0;
    for (int i = 0; i < d_head; ++i) largest = std::max(largest, std::fabs(x[i]));
    double error = 0, plain = 0;
    for (int i = 0; i < d_head; ++i) {
      const float stored = static_cast<float>(bytes[is_k ? i * kv_block_tokens + slot : slot * d_head + i]) * scale;
      error += std::pow(d(x[i]) - d(stored), 2);
      plain += std::pow(d(x[i]) - std::nearbyint(d(x[i]) * 127 / d(largest)) * d(largest) / 127, 2);
      x[i] = stored;
    }
    CHECK(error <= plain * 1.0001 + 1e-12);
  }
  static constexpr size_t offset = 128;
  KvFormat format;
  int d_head, n_tokens;
  std::vector<float> k, v;
  std::vector<std::unique_ptr<Guarded<std::byte>>> memory;
  std::vector<const std::byte*> blocks;
};

struct TestQueries {
  TestQueries(int n, int d_head) : n_queries(n), stride(d_head + 5), q(static_cast<size_t>((n - 1) * (d_head + 5) + d_head)), first(static_cast<size_t>(n)), last(static_cast<size_t>(n)) {
    fill_normal(q.data(), q.size(), 20, 2.0f / std::sqrt(static_cast<float>(d_head)));
  }
  int n_queries;
  int64_t stride;
  Guarded<float> q;
  Guarded<int32_t> first, last;
};

/// All segments in order, merged and finished, for queries [from, from + n).
std::vector<float> run_attention(const Table& t, const TestCache& cache, TestQueries& queries, int from, int n, float softcap, const float* sink) {
  const int d_head = cache.d_head;
  Guarded<float> max(static_cast<size_t>(n)), sum(static_cast<size_t>(n)), value(static_cast<size_t>(n * d_head));
  Guarded<float> max2(static_cast<size_t>(n)), sum2(static_cast<size_t>(n)), value2(static_cast<size_t>(n * d_head));
  const size_t bytes = t.attention_scratch_bytes(d_head);
  const Scratch scratch = make_scratch(bytes);
  AttentionTile tile = {queries.q.data() + from * queries.stride, queries.stride, n, queries.first.data() + from, queries.last.data() + from,
                        cache.blocks.data(), TestCache::offset, d_head, cache.format, softcap, 0};
  const AttentionPart into = {max.data(), sum.data(), value.data()};
  const AttentionPart part = {max2.data(), sum2.data(), value2.data()};
  t.attend[static_cast<int>(tile.format)](tile, into, scratch.get());
  for (tile.segment = 1; tile.segment * kv_segment_tokens < cache.n_tokens; ++tile.segment) {
    t.attend[static_cast<int>(tile.format)](tile, part, scratch.get());
    t.attention_merge(into, part, n, d_head);
  }
  Guarded<float> out(static_cast<size_t>(n * d_head));
  t.attention_finish(into, sink, n, d_head, out.data(), d_head);
  return {out.begin(), out.end()};
}

std::vector<double> reference_attention(const TestCache& cache, TestQueries& queries, int query, double softcap, const float* sink) {
  const auto d_head = static_cast<size_t>(cache.d_head);
  const auto row = static_cast<size_t>(query);
  std::vector<double> scores, out(d_head);
  const auto first = static_cast<size_t>(queries.first[row]), last = static_cast<size_t>(queries.last[row]);
  double top = sink != nullptr ? d(sink[query]) : -1e300;
  for (size_t key = first; key <= last; ++key) {
    double s = 0;
    for (size_t i = 0; i < d_head; ++i) s += d(queries.q[row * static_cast<size_t>(queries.stride) + i]) * d(cache.k[key * d_head + i]);
    if (softcap != 0) s = softcap * std::tanh(s / softcap);
    scores.push_back(s);
    top = std::fmax(top, s);
  }
  double sum = sink != nullptr ? std::exp(d(sink[query]) - top) : 0;
  for (double& s : scores) sum += s = std::exp(s - top);
  for (size_t j = 0; j < scores.size(); ++j) {
    for (size_t i = 0; i < d_head; ++i) out[i] += scores[j] / sum * d(cache.v[(first + j) * d_head + i]);
  }
  return out;
}

struct AttentionCase {
  const char* name;
  int n_tokens, n_queries, d_head;
  int n_heads;  // queries are tokens x heads: each token's heads see the same keys
  int window;   // 0: all
  float softcap;
  bool sinks;
};

const AttentionCase attention_cases[] = {
    {"one key", 1, 1, 8, 1, 0, 0, false},
    {"decode, 7 heads", 300, 7, 64, 7, 0, 0, false},
    {"decode over segments", 1300, 3, 32, 3, 0, 0, false},
    {"prompt", 40, 40, 24, 1, 0, 0, false},
    {"prompt, grouped heads", 37, 60, 80, 2, 0, 0, false},
    {"prompt across a segment's edge", 530, 40, 16, 2, 0, 0, false},
    {"more queries than share a block", 520, 140, 64, 7, 0, 0, false},
    {"window", 700, 26, 96, 2, 100, 0, false},
    {"window shorter than a tile", 60, 40, 10, 1, 3, 0, false},
    {"softcap", 90, 5, 128, 1, 0, 20.0f, false},
    {"sinks", 530, 9, 64, 1, 128, 0, true},
    {"odd head sizes", 50, 5, 2, 1, 0, 0, false},
    {"large head", 20, 9, 258, 3, 0, 0, false},
};

/// Queries belong to the sequence's last tokens.
void set_visible_keys(TestQueries& queries, const AttentionCase& c) {
  for (int i = 0; i < c.n_queries; ++i) {
    const auto row = static_cast<size_t>(i);
    queries.last[row] = c.n_tokens - 1 - (c.n_queries - 1 - i) / c.n_heads;
    queries.first[row] = c.window == 0 ? 0 : std::max(0, queries.last[row] - c.window + 1);
  }
}

}  // namespace

TEST_CASE("int8 keys and values do not hide what overflowed") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    std::vector<float> k(24, 1.0f);
    k[5] = std::numeric_limits<float>::infinity();
    Guarded<std::byte> part(t->kv_bytes(KvFormat::i8, 24), std::byte{0});
    t->kv_store(KvFormat::i8, k.data(), k.data(), 24, 3, part.data());
    float scale;
    std::memcpy(&scale, part.data() + 2 * kv_block_tokens * 24 + 3 * 4, sizeof scale);
    CHECK(std::isinf(scale));
  }
}

TEST_CASE("attention is near double precision") {
  for (const Table* t : usable_tables()) {
    for (const KvFormat kv : {KvFormat::f32, KvFormat::bf16, KvFormat::i8}) {
      for (const AttentionCase& c : attention_cases) {
        INFO("level: ", std::string(t->name));
        CAPTURE(static_cast<int>(kv));
        INFO("case: ", std::string(c.name));
        const TestCache cache(*t, kv, c.d_head, c.n_tokens, 30);
        TestQueries queries(c.n_queries, c.d_head);
        set_visible_keys(queries, c);
        std::vector<float> sinks(static_cast<size_t>(c.n_queries));
        fill_normal(sinks.data(), sinks.size(), 31, 3.0f);
        const float* sink = c.sinks ? sinks.data() : nullptr;
        const std::vector<float> out = run_attention(*t, cache, queries, 0, c.n_queries, c.softcap, sink);
        double worst = 0;
        for (int i = 0; i < c.n_queries; ++i) {
          const std::vector<double> expected = reference_attention(cache, queries, i, d(c.softcap), sink);
          for (int j = 0; j < c.d_head; ++j) {
            const double got = out[static_cast<size_t>(i * c.d_head + j)];
            // fmax would drop a NaN.
            worst = std::isnan(got) ? 1e9 : std::fmax(worst, std::fabs(got - expected[static_cast<size_t>(j)]));
          }
        }
        // bf16 dot products round queries and weights as well.
        const bool bf16_dot = kv == KvFormat::bf16 && (std::string(t->name) == "avx512bf16" || std::string(t->name) == "i8mm");
        CHECK(worst <= (bf16_dot ? 2e-2 : 4e-6));
      }
    }
  }
}

TEST_CASE("attention gives the same bits whatever else is in the tile") {
  for (const Table* t : usable_tables()) {
    for (const KvFormat kv : {KvFormat::f32, KvFormat::bf16, KvFormat::i8}) {
      for (const AttentionCase& c : attention_cases) {
        INFO("level: ", std::string(t->name));
        INFO("case: ", std::string(c.name));
        const TestCache cache(*t, kv, c.d_head, c.n_tokens, 40);
        TestQueries queries(c.n_queries, c.d_head);
        set_visible_keys(queries, c);
        const std::vector<float> whole = run_attention(*t, cache, queries, 0, c.n_queries, c.softcap, nullptr);
        for (const int step : {1, 2, 3, 5, 8}) {
          CAPTURE(step);
          for (int from = 0; from < c.n_queries; from += step) {
            const std::vector<float> some = run_attention(*t, cache, queries, from, std::min(step, c.n_queries - from), c.softcap, nullptr);
            CHECK(same_bits(some.data(), whole.data() + from * c.d_head, some.size()));
          }
        }
      }
    }
  }
}

TEST_CASE("a later key's infinity or NaN does not reach earlier queries") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    const int d_head = 16, n = 21;
    TestCache clean(*t, KvFormat::f32, d_head, n, 50), dirty(*t, KvFormat::f32, d_head, n, 50);
    TestQueries queries(n, d_head);
    set_visible_keys(queries, {"", n, n, d_head, 1, 0, 0, false});
    std::vector<float> k(d_head, nan_value), v(d_head, inf);
    t->kv_store(KvFormat::f32, k.data(), v.data(), d_head, 9, dirty.memory[0]->data() + TestCache::offset);
    const std::vector<float> a = run_attention(*t, clean, queries, 0, n, 0, nullptr);
    const std::vector<float> b = run_attention(*t, dirty, queries, 0, n, 0, nullptr);
    CHECK(same_bits(a.data(), b.data(), 9 * d_head));
    for (int i = 9; i < n; ++i) CHECK(std::isnan(b[static_cast<size_t>(i * d_head)]));
  }
}

TEST_CASE("a segment out of sight is an empty part, and its blocks are not touched") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    const int d_head = 8;
    const int32_t first[] = {520, 530}, last[] = {600, 600};
    const float q[2 * d_head] = {};
    float max[2] = {1, 1}, sum[2] = {1, 1}, value[2 * d_head];
    for (float& x : value) x = 5.0f;
    const Scratch scratch = make_scratch(t->attention_scratch_bytes(d_head));
    const AttentionTile tile = {q, d_head, 2, first, last, nullptr, 0, d_head, KvFormat::f32, 0, 0};
    t->attend[static_cast<int>(tile.format)](tile, {max, sum, value}, scratch.get());
    for (int i = 0; i < 2; ++i) {
      CHECK(max[i] == -inf);
      CHECK(sum[i] == 0.0f);
    }
    for (const float x : value) CHECK(x == 0.0f);
    // Merging it changes nothing; merging into it takes the other part over.
    float max2[2] = {3, 4}, sum2[2] = {2, 1}, value2[2 * d_head];
    for (float& x : value2) x = 7.0f;
    t->attention_merge({max2, sum2, value2}, {max, sum, value}, 2, d_head);
    CHECK((max2[0] == 3.0f && max2[1] == 4.0f && sum2[0] == 2.0f && sum2[1] == 1.0f && value2[0] == 7.0f));
    t->attention_merge({max, sum, value}, {max2, sum2, value2}, 2, d_head);
    CHECK((max[0] == 3.0f && max[1] == 4.0f && sum[0] == 2.0f && sum[1] == 1.0f && value[2 * d_head - 1] == 7.0f));
  }
}

TEST_CASE("kv blocks: K transposed, V by token, bfloat16 in pairs and rounded to nearest even, int8 with a scale each") {
  for (const Table* t : usable_tables()) {
    INFO("level: ", std::string(t->name));
    CHECK(t->kv_bytes(KvFormat::f32, 64) == 2 * 16 * 64 * 4);
    CHECK(t->kv_bytes(KvFormat::bf16, 64) == 2 * 16 * 64 * 2);
    CHECK(t->kv_bytes(KvFormat::bf16, 10) == 640);
    const float k[] = {1.0f, float_of(0x3f808000), float_of(0x3f818000), float_of(0x7f7fffff), -inf, nan_value, 1e-40f, -0.0f};
    const float v[] = {2.0f, float_of(0x3f808001), float_of(0x7f800001), 0, 0, 0, 0, 9.0f};
    Guarded<uint16_t> half(2 * 16 * 8, 7);
    t->kv_store(KvFormat::bf16, k, v, 8, 3, reinterpret_cast<std::byte*>(half.data()));
    const uint16_t expected[] = {0x3f80, 0x3f80, 0x3f82, 0x7f80, 0xff80, 0x7fc0, 0x0001, 0x8000};
    for (size_t i = 0; i < 8; ++i) CHECK(half[i / 2 * 32 + 3 * 2 + i % 2] == expected[i]);
    const size_t v_at = 128 + 3 / 2 * 16 + 3 % 2;
    CHECK(half[v_at] == 0x4000);
    CHECK(half[v_at + 2] == 0x3f81);
    CHECK((half[v_at + 4] & 0x7fff) > 0x7f80);
    CHECK(half[0] == 7);
    Guarded<float> whole(2 * 16 * 8, 7.0f);
    t->kv_store(KvFormat::f32, k, v, 8, 15, reinterpret_cast<std::byte*>(whole.data()));
    CHECK(whole[15] == 1.0f);
    CHECK(whole[255] == 9.0f);
    CHECK(whole[14] == 7.0f);
    CHECK(t->kv_bytes(KvFormat::i8, 64) == 2 * 16 * 64 + 2 * 16 * 4);
    const float a[] = {1.27f, -0.64f, 0}, b[] = {0, 0, 254.0f};
    Guarded<int8_t> bytes(2 * 16 * 3 + 2 * 16 * 4, int8_t{7});
    t->kv_store(KvFormat::i8, a, b, 3, 2, reinterpret_cast<std::byte*>(bytes.data()));
    CHECK((bytes[2] == 127 && bytes[18] == -64 && bytes[34] == 0 && bytes[3] == 7));
    CHECK((bytes[48 + 6] == 0 && bytes[48 + 8] == 127 && bytes[48 + 9] == 7));
    float scales[2];
    std::memcpy(&scales[0], bytes.data() + 96 + 2 * 4, 4);
    std::memcpy(&scales[1], bytes.data() + 96 + 18 * 4, 4);
    CHECK((scales[0] == doctest::Approx(0.01) && scales[1] == 2.0f));
  }
}
