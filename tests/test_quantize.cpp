// Error compensation, the layout of what is written and read back, the budget of bits.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "base/error.h"
#include "model/model.h"
#include "quantize/compensate.h"
#include "quantize/quantize.h"
#include "random_model.h"
#include "temp_dir.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;
using kernels::Format;

std::vector<float> normal(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> draw;
  std::vector<float> out(n);
  for (float& v : out) v = draw(random);
  return out;
}

/// Inputs whose columns hang together: a few hidden causes and a little noise, some columns much heavier than others.
std::vector<float> correlated(int64_t n, int64_t n_cols, uint64_t seed) {
  constexpr int64_t causes = 8;
  const std::vector<float> mix = normal(static_cast<size_t>(causes * n_cols), 99), cause = normal(static_cast<size_t>(n * causes), seed),
                           noise = normal(static_cast<size_t>(n * n_cols), seed + 1);
  std::vector<float> x(static_cast<size_t>(n * n_cols));
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t c = 0; c < n_cols; ++c) {
      float sum = 0.3f * noise[static_cast<size_t>(t * n_cols + c)];
      for (int64_t k = 0; k < causes; ++k) sum += cause[static_cast<size_t>(t * causes + k)] * mix[static_cast<size_t>(k * n_cols + c)];
      x[static_cast<size_t>(t * n_cols + c)] = sum * (c % 7 == 0 ? 3 : 1);
    }
  }
  return x;
}

struct Quantized {
  QuantizedRows rows;
  double error, rounding_error;
};

Quantized quantize(int n_threads, Format format, int group, int64_t n_rows, int64_t n_cols, int rounds) {
  Team team(n_threads);
  const int64_t n = 300;
  const std::vector<float> x = correlated(n, n_cols, 5), w = normal(static_cast<size_t>(n_rows * n_cols), 6);
  Moments moments(n_cols, false);
  moments.add(team, x.data(), nullptr, 100);
  moments.add(team, x.data() + 100 * n_cols, nullptr, n - 100);
  moments.finish(team, 0.01f);
  const Feedback feedback(team, moments);
  Quantized out{QuantizedRows(format, group, n_rows, n_cols), 0, 0};
  round_to_nearest(team, w.data(), out.rows);
  out.rounding_error = relative_error(team, moments, w.data(), out.rows);
  compensate(team, moments, feedback, w.data(), out.rows, rounds);
  out.error = relative_error(team, moments, w.data(), out.rows);
  return out;
}

TEST_CASE("compensation beats rounding to nearest on inputs that hang together") {
  struct Case {
    Format format;
    int group;
    int64_t n_rows, n_cols;
    double at_most;  // of the rounding error
  };
  for (const Case& c : {Case{Format::i4, 32, 40, 96, 0.35}, Case{Format::i4, 64, 17, 172, 0.35}, Case{Format::i4, 128, 33, 300, 0.35},
                        Case{Format::i8, 32, 20, 100, 0.5}}) {
    CAPTURE(c.group);
    CAPTURE(c.n_cols);
    const Quantized feedback = quantize(2, c.format, c.group, c.n_rows, c.n_cols, 0);
    const Quantized refined = quantize(2, c.format, c.group, c.n_rows, c.n_cols, 8);
    CHECK(feedback.error < feedback.rounding_error);
    CHECK(refined.error < feedback.error);
    CHECK(refined.error < c.at_most * refined.rounding_error);
    const int low = c.format == Format::i4 ? -8 : -127, high = c.format == Format::i4 ? 7 : 127;
    for (const int8_t q : refined.rows.q) CHECK_UNARY(q >= low && q <= high);
  }
}

TEST_CASE("compensation gives the same bits with any number of threads") {
  const Quantized one = quantize(1, Format::i4, 32, 40, 172, 4), three = quantize(3, Format::i4, 32, 40, 172, 4);
  CHECK(one.rows.q == three.rows.q);
  CHECK(one.rows.scales == three.rows.scales);
}

TEST_CASE("weights that the format holds stay as they are") {
  Team team(1);
  constexpr int64_t n_rows = 4, n_cols = 64;
  std::vector<float> w(n_rows * n_cols);
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.5f * static_cast<float>(static_cast<int>(i * 7 % 16) - 8);
  const std::vector<float> x = correlated(200, n_cols, 3);
  Moments moments(n_cols, false);
  moments.add(team, x.data(), nullptr, 200);
  moments.finish(team, 0.01f);
  QuantizedRows q(Format::i4, 32, n_rows, n_cols);
  compensate(team, moments, Feedback(team, moments), w.data(), q, 4);
  std::vector<float> back(w.size());
  q.dequantize(team, back.data());
  CHECK(back == w);
}

TEST_CASE("weights are corrected for inputs that have changed") {
  // The changed inputs are the exact ones scaled by two: half the weights give the same products.
  Team team(2);
  constexpr int64_t n_rows = 5, n_cols = 100, n = 400;
  const std::vector<float> exact = correlated(n, n_cols, 8);
  std::vector<float> changed = exact;
  for (float& v : changed) v *= 2;
  Moments moments(n_cols, true);
  moments.add(team, changed.data(), exact.data(), n);
  moments.finish(team, 1e-4f);
  std::vector<float> w = normal(n_rows * n_cols, 4);
  const std::vector<float> before = w;
  Feedback(team, moments).correct(team, moments, w.data(), n_rows);
  for (int64_t t = 0; t < 20; ++t) {
    for (int64_t r = 0; r < n_rows; ++r) {
      double was = 0, is = 0;
      for (int64_t c = 0; c < n_cols; ++c) {
        was += exact[static_cast<size_t>(t * n_cols + c)] * before[static_cast<size_t>(r * n_cols + c)];
        is += changed[static_cast<size_t>(t * n_cols + c)] * w[static_cast<size_t>(r * n_cols + c)];
      }
      CHECK(is == doctest::Approx(was).epsilon(0.02).scale(10));
    }
  }
}

TEST_CASE("a matrix without inputs and one with inputs that are all the same are quantized") {
  Team team(1);
  for (const float value : {0.0f, 1.0f}) {
    constexpr int64_t n_cols = 70;
    const std::vector<float> x(50 * n_cols, value), w = normal(3 * n_cols, 2);
    Moments moments(n_cols, false);
    if (value != 0) moments.add(team, x.data(), nullptr, 50);
    moments.finish(team, 0.01f);
    QuantizedRows q(Format::i4, 32, 3, n_cols);
    compensate(team, moments, Feedback(team, moments), w.data(), q, 4);
    CHECK(relative_error(team, moments, w.data(), q) < 0.1);
  }
}

// --- directories -----------------------------------------------------------------------------------------------------------------

Json config_of(bool tied, int64_t d_ff = 112) {
  return {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_size", 64}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"intermediate_size", d_ff}, {"num_hidden_layers", 2}, {"vocab_size", 150},
          {"max_position_embeddings", 64}, {"bos_token_id", 1}, {"tie_word_embeddings", tied}};
}

QuantizeOptions how(Format format, int group = 32) {
  QuantizeOptions options;
  options.format = format;
  options.group = group;
  options.progress = [](const char*, uint64_t, uint64_t) { return true; };
  return options;
}

void check_same(const kernels::Matrix& a, const kernels::Matrix& b) {
  REQUIRE(a.format == b.format);
  REQUIRE(a.group == b.group);
  REQUIRE(a.n_rows == b.n_rows);
  size_t bytes = static_cast<size_t>(a.n_rows * a.n_cols) * (a.format == Format::f32 ? 4 : 2);
  if (kernels::is_packed(a.format)) bytes = static_cast<size_t>((a.n_rows + 15) / 16) * kernels::table().packed_block_bytes(a.format, a.n_cols, a.group);
  CHECK(std::memcmp(a.data, b.data, bytes) == 0);
}

TEST_CASE("what was written loads as the same packed bytes as quantizing while loading") {
  struct Case {
    Format format;
    WeightDType dtype;
    int group;
    bool tied;
    DType stored;
  };
  for (const Case& c : {Case{Format::i4, WeightDType::i4, 32, true, DType::bf16}, Case{Format::i4, WeightDType::i4, 64, false, DType::f32},
                        Case{Format::i4, WeightDType::i4, 128, false, DType::f16}, Case{Format::i8, WeightDType::i8, 32, true, DType::f32},
                        Case{Format::i8, WeightDType::i8, 128, false, DType::bf16}}) {
    CAPTURE(c.group);
    const TempDir dir;
    fs::create_directory(dir.file("model"));
    write_random_model(dir.file("model"), config_of(c.tied), c.stored, 3);
    Team team(2);
    QuantizeOptions options = how(c.format, c.group);
    options.max_shard_bytes = 20000;  // several files
    const QuantizeSummary summary = quantize_model(dir.file("model"), dir.file("out"), team, options);
    CHECK(summary.n_modules == 15);
    CHECK(fs::exists(dir.file("out/model.safetensors.index.json")));
    LoadOptions load;
    load.dtype = c.dtype;
    load.group = c.group;
    const auto direct = Model::load(dir.file("model"), load);
    const auto read = Model::load(dir.file("out"));
    CHECK_FALSE(read->spec().tied_embeddings);
    check_same(direct->weights().output.w, read->weights().output.w);
    check_same(direct->weights().embedding, read->weights().embedding);
    for (size_t i = 0; i < 2; ++i) {
      const LayerWeights &a = direct->weights().layers[i], &b = read->weights().layers[i];
      for (Linear LayerWeights::*m : {&LayerWeights::wq, &LayerWeights::wk, &LayerWeights::wv, &LayerWeights::wo, &LayerWeights::w_gate,
                                      &LayerWeights::w_up, &LayerWeights::w_down}) {
        check_same((a.*m).w, (b.*m).w);
      }
    }
  }
}

TEST_CASE("the output matrix can be kept, tied or not") {
  for (const bool tied : {true, false}) {
    const TempDir dir;
    fs::create_directory(dir.file("model"));
    write_random_model(dir.file("model"), config_of(tied), DType::bf16, 4);
    Team team(1);
    QuantizeOptions options = how(Format::i4);
    options.keep_output = true;
    const QuantizeSummary summary = quantize_model(dir.file("model"), dir.file("out"), team, options);
    CHECK(summary.n_modules == 14);
    const auto read = Model::load(dir.file("out"));
    CHECK(read->spec().tied_embeddings == tied);
    CHECK(read->weights().output.w.format == Format::bf16);
    CHECK(read->weights().layers[0].wq.w.format == Format::i4);
  }
}

TEST_CASE("a budget of bits is held, and spent") {
  const TempDir dir;
  fs::create_directory(dir.file("model"));
  write_random_model(dir.file("model"), config_of(true, 256), DType::f32, 5);
  Team team(2);
  QuantizeOptions options = how(Format::i4);
  options.calibrate = true;
  options.n_tokens = 512;
  options.bos = 1;
  std::vector<ModuleReport> reports;
  options.report = [&](const ModuleReport& r) { reports.push_back(r); };
  options.bits = 5;
  const QuantizeSummary summary = quantize_model(dir.file("model"), dir.file("out"), team, options);
  CHECK(summary.bits <= 5);
  CHECK(summary.bits > 4.6);
  REQUIRE(reports.size() == 14);
  for (const ModuleReport& r : reports) {
    CHECK(r.n_tokens >= 512);
    CHECK(r.error < r.rounding_error);
  }
  CHECK(Model::load(dir.file("out"))->weights().layers[1].w_down.w.n_cols == 256);
  options.bits = 4.01;
  CHECK_THROWS_AS(quantize_model(dir.file("model"), dir.file("out2"), team, options), Error);
  CHECK_FALSE(fs::exists(dir.file("out2")));
}

TEST_CASE("nothing is left of a run that was stopped or failed") {
  const TempDir dir;
  fs::create_directory(dir.file("model"));
  write_random_model(dir.file("model"), config_of(false), DType::f32, 6);
  Team team(1);
  QuantizeOptions options = how(Format::i8);
  int calls = 0;
  options.progress = [&](const char*, uint64_t, uint64_t) { return ++calls < 5; };
  CHECK(quantize_model(dir.file("model"), dir.file("out"), team, options).stopped);
  options = how(Format::i8);
  CHECK_THROWS_AS(quantize_model(dir.file("model"), dir.file("none/out"), team, options), Error);
  fs::create_directory(dir.file("there"));
  CHECK_THROWS_AS(quantize_model(dir.file("model"), dir.file("there"), team, options), Error);
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(dir.path())) ++n;
  CHECK(n == 2);
  CHECK(fs::is_empty(dir.file("there")));
}

}  // namespace
}  // namespace engine::test
