// Checkpoints in the quantized formats of other programs: values and logits against what their specifications say, on every ISA level.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "decoder_rig.h"
#include "levels.h"
#include "support.h"
#include "temp_dir.h"

using namespace engine;
using namespace engine::test;

namespace {

using kernels::Format;

struct Row {
  const char* name;
  const char* format_name;
  Format format;      // of the projections with --dtype auto
  double rms;         // most that the relative RMS error of a weight may be; 0: equal bits
};

const Row rows[] = {
    {"gptq-4bit", "gptq", Format::i4, 0},
    {"gptq-4bit-asymmetric-v2", "gptq", Format::i8, 0},
    {"gptq-4bit-act-order", "gptq", Format::bf16, 2e-3},
    {"gptq-4bit-group16", "gptq", Format::bf16, 2e-3},
    {"gptq-8bit", "gptq", Format::i8, 0},
    {"gptq-8bit-asymmetric", "gptq", Format::bf16, 2e-3},
    {"gptq-3bit", "gptq", Format::i8, 0},
    {"gptq-2bit", "gptq", Format::i4, 0},
    {"awq", "awq", Format::i8, 0},
    {"bnb-nf4-double", "bitsandbytes", Format::bf16, 2e-3},
    {"bnb-fp4", "bitsandbytes", Format::bf16, 2e-3},
    {"bnb-int8", "bitsandbytes", Format::i8, 5e-4},  // each row's scale rounded to float16
    {"fp8-block", "fp8", Format::bf16, 2e-3},
    {"fp8-tensor", "fp8", Format::bf16, 2e-3},
    {"fbgemm-fp8", "fbgemm_fp8", Format::bf16, 2e-3},
    {"ct-float-channel", "compressed-tensors float-quantized", Format::bf16, 2e-3},
    {"ct-float-block", "compressed-tensors float-quantized", Format::bf16, 2e-3},
    {"ct-naive-int8", "compressed-tensors naive-quantized", Format::i8, 0},
};

std::string directory_of(const Row& row) { return data_file(std::string("quantized/") + row.name); }

std::shared_ptr<const Model> load(const std::string& directory, WeightDType dtype) {
  LoadOptions options;
  options.dtype = dtype;
  return Model::load(directory, options);
}

/// Rows of a matrix as the kernels see them, as many as the golden has, and the golden's.
struct Compared {
  std::vector<float> got, expected;
  double relative_rms() const {
    double error = 0, sum = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += (got[i] - expected[i]) * (got[i] - expected[i]);
      sum += expected[i] * expected[i];
    }
    return std::sqrt(error / sum);
  }
};

Compared compare(const kernels::Matrix& m, const SafetensorsFile& golden, const char* name) {
  const TensorView& t = golden.tensors().at(name);
  REQUIRE(t.shape.back() == m.n_cols);
  Compared c;
  c.expected.resize(static_cast<size_t>(t.n_elements()));
  c.got.resize(c.expected.size());
  REQUIRE(to_float(t, c.expected.data()));
  for (int64_t r = 0; r < t.shape[0]; ++r) kernels::table().get_row(m, r, c.got.data() + r * m.n_cols);
  return c;
}

struct Golden {
  explicit Golden(const std::string& directory) : file(directory + "/reference.safetensors") {
    const TensorView& t = file.tensors().at("input_ids");
    for (int64_t i = 0; i < t.n_elements(); ++i) {
      int64_t id;
      std::memcpy(&id, t.data + i * 8, 8);
      ids.push_back(static_cast<int32_t>(id));
    }
    const TensorView& l = file.tensors().at("logits");
    logits.resize(static_cast<size_t>(l.n_elements()));
    to_float(l, logits.data());
  }
  SafetensorsFile file;
  Ids ids;
  std::vector<float> logits;
};

}  // namespace

TEST_CASE("foreign formats: every golden has a row here") {
  size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_file("quantized"))) n += entry.is_directory();
  CHECK(n == std::size(rows));
}

TEST_CASE("foreign formats: widened to float32 they are what the specification says, on every level") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Golden golden(directory_of(row));
    on_every_level([&] {
      const auto model = load(directory_of(row), WeightDType::f32);
      CHECK(model->import_format() == row.format_name);
      const LayerWeights& layer = model->weights().layers[0];
      for (const auto& [matrix, name] : {std::pair{layer.wk.w, "k_proj"}, {layer.w_down.w, "down_proj"}}) {
        const Compared c = compare(matrix, golden.file, name);
        CHECK(c.got == c.expected);
      }
      CHECK(relative_difference(Rig(model, 2).logits(golden.ids), golden.logits) < 5e-4);
    });
  }
}

TEST_CASE("foreign formats: as they are loaded by default, bit for bit or within the error stated") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Golden golden(directory_of(row));
    on_every_level([&] {
      const auto model = load(directory_of(row), WeightDType::automatic);
      const LayerWeights& layer = model->weights().layers[0];
      for (const auto& [matrix, name] : {std::pair{layer.wk.w, "k_proj"}, {layer.w_down.w, "down_proj"}}) {
        CHECK(matrix.format == row.format);
        const Compared c = compare(matrix, golden.file, name);
        if (row.rms == 0) CHECK(c.got == c.expected);
        else CHECK(c.relative_rms() < row.rms);
      }
      const ImportedWeights& told = model->imported()[static_cast<size_t>(row.format)];
      CHECK(told.n_matrices == 7);
      const double rms = std::sqrt(told.squared_error / told.squared_sum);
      if (row.rms == 0) CHECK(rms == 0);
      else CHECK((rms > 0 && rms < row.rms));
      // The largest of all logits' errors: weights rounded to bfloat16, or activations to int8.
      CHECK(relative_difference(Rig(model, 2).logits(golden.ids), golden.logits) < (row.format == Format::bf16 ? 0.03 : 0.1));
    });
  }
}

TEST_CASE("foreign formats: int8 and int4 keep stored integers where they fit, and quantize anew where not") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Golden golden(directory_of(row));
    on_every_level([&] {
      for (const WeightDType dtype : {WeightDType::i8, WeightDType::i4}) {
        CAPTURE(static_cast<int>(dtype));
        const auto model = load(directory_of(row), dtype);
        const kernels::Matrix& m = model->weights().layers[0].w_down.w;
        CHECK(m.format == (dtype == WeightDType::i8 ? Format::i8 : Format::i4));
        const Compared c = compare(m, golden.file, "down_proj");
        const bool kept = row.rms == 0 && (dtype == WeightDType::i8 || row.format == Format::i4);
        if (kept) CHECK(c.got == c.expected);
        else CHECK(c.relative_rms() < (dtype == WeightDType::i8 ? 0.01 : 0.12));
        Rig rig(model, 2);
        const std::vector<float> logits = rig.logits(golden.ids);
        CHECK(relative_difference(logits, golden.logits) < (kept ? 0.1 : dtype == WeightDType::i8 ? 0.12 : 1.0));
        CHECK(Rig(model, 1).logits(golden.ids, 1) == logits);
      }
    });
  }
}
