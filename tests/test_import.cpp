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
    {"gptq-4bit-act-order", "gptq", Format::bf16, 2.5e-3},
    {"gptq-4bit-group16", "gptq", Format::bf16, 2.5e-3},
    {"gptq-8bit", "gptq", Format::i8, 0},
    {"gptq-8bit-asymmetric", "gptq", Format::bf16, 2.5e-3},
    {"gptq-3bit", "gptq", Format::i4, 0},
    {"gptq-2bit", "gptq", Format::i4, 0},
    {"awq", "awq", Format::i8, 0},
    {"bnb-nf4-double", "bitsandbytes", Format::bf16, 2.5e-3},
    {"bnb-fp4", "bitsandbytes", Format::bf16, 2.5e-3},
    {"bnb-int8", "bitsandbytes", Format::i8, 5e-4},  // each row's scale rounded to float16
    {"fp8-block", "fp8", Format::bf16, 2.5e-3},
    {"fp8-tensor", "fp8", Format::bf16, 2.5e-3},
    {"fbgemm-fp8", "fbgemm_fp8", Format::bf16, 2.5e-3},
    {"ct-float-channel", "compressed-tensors float-quantized", Format::bf16, 2.5e-3},
    {"ct-float-block", "compressed-tensors float-quantized", Format::bf16, 2.5e-3},
    {"ct-pack-int4", "compressed-tensors pack-quantized", Format::i4, 0},
    {"ct-pack-int4-asymmetric", "compressed-tensors pack-quantized", Format::i8, 0},
    {"ct-pack-int4-act-order", "compressed-tensors pack-quantized", Format::bf16, 2.5e-3},
    {"ct-pack-int8-channel", "compressed-tensors pack-quantized", Format::i8, 0},
    {"ct-int8-channel", "compressed-tensors int-quantized", Format::i8, 0},
    {"ct-int8-channel-asymmetric", "compressed-tensors int-quantized", Format::bf16, 2.5e-3},
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
    CAPTURE(std::string(row.name));
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
    CAPTURE(std::string(row.name));
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
    CAPTURE(std::string(row.name));
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
        CHECK(relative_difference(logits, golden.logits) < (kept ? 0.15 : dtype == WeightDType::i8 ? 0.2 : 2.0));
        CHECK(Rig(model, 1).logits(golden.ids, 1) == logits);
      }
    });
  }
}

// --- refusals -------------------------------------------------------------------------------------------------------------------------

namespace {

/// A golden of the formats with some keys of quantization_config changed (null: removed).
void write_changed(const TempDir& dir, const char* name, const Json& changes) {
  const std::string from = data_file(std::string("quantized/") + name);
  std::filesystem::copy_file(from + "/model.safetensors", dir.file("model.safetensors"), std::filesystem::copy_options::overwrite_existing);
  Json config = read_json_file(from + "/config.json");
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) config["quantization_config"].erase(key);
    else config["quantization_config"][key] = value;
  }
  dir.write("config.json", dump_json(config));
}

std::string refusal(const std::string& directory, const LoadOptions& options = {}) {
  try {
    Model::load(directory, options);
  } catch (const Error& error) {
    return error.message;
  }
  return "accepted";
}

struct Refused {
  const char* name;
  const char* changes;
  const char* words;  // that the message has
};

const Refused refused[] = {
    {"awq", R"({"quant_method": "hqq"})", "'hqq'"},
    {"awq", R"({"quant_method": null})", "quant_method"},
    {"awq", R"({"quant_method": 7})", "quant_method"},
    {"awq", R"({"version": "gemv"})", "version: expected gemm, got \"gemv\""},
    {"awq", R"({"bits": 3})", "bits"},
    {"awq", R"({"group_size": 0})", "group_size"},
    {"awq", R"({"group_size": 16})", "qzeros expected [4, 8], got [2, 8]"},
    {"awq", R"({"zero_point": false})", "zero_point"},
    {"awq", R"({"smooth": 1})", "smooth: this option is not known"},
    {"gptq-4bit", R"({"bits": 5})", "bits: expected 2, 3, 4 or 8, got 5"},
    {"gptq-4bit", R"({"bits": 8})", "qweight expected"},
    {"gptq-4bit", R"({"group_size": 0})", "group_size"},
    {"gptq-4bit", R"({"checkpoint_format": "marlin"})", "checkpoint_format: expected gptq or gptq_v2, got \"marlin\""},
    {"gptq-4bit", R"({"dynamic": {"-:.*down.*": {}}})", "dynamic"},
    {"gptq-4bit", R"({"pack_dtype": "int8"})", "pack_dtype"},
    {"gptq-4bit", R"({"is_marlin_format": true})", "is_marlin_format"},
    {"bnb-nf4-double", R"({"bnb_4bit_quant_type": "int4"})", "bnb_4bit_quant_type"},
    {"fp8-block", R"({"weight_block_size": [0, 128]})", "weight_block_size"},
    {"fp8-block", R"({"weight_block_size": [16, 16]})", "weight_scale_inv expected [4, 4], got [3, 2]"},
    {"fp8-block", R"({"fmt": "e5m2"})", "fmt"},
    {"ct-float-channel", R"({"format": "marlin-24"})", "format 'marlin-24' of compressed-tensors"},
    {"ct-float-channel", R"({"sparsity_config": {"format": "sparse-24-bitmask"}})", "sparse"},
    {"ct-float-channel", R"({"transform_config": {"config_groups": {"a": 1}}})", "transform_config"},
    {"ct-float-channel", R"({"config_groups": null})", "config_groups"},
    {"ct-float-channel", R"({"quantization_status": "frozen"})", "quantization_status"},
};

}  // namespace

TEST_CASE("foreign formats: what is not supported is refused by name, in one line") {
  for (const Refused& r : refused) {
    CAPTURE(std::string(r.changes));
    const TempDir dir;
    write_changed(dir, r.name, parse_json(r.changes, "changes"));
    const std::string message = refusal(dir.path());
    CAPTURE(message);
    CHECK(message.find(r.words) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

// --- adapters -------------------------------------------------------------------------------------------------------------------------

TEST_CASE("LoRA adapters: the merged model's logits, on every level") {
  const std::pair<const char*, const char*> cases[] = {{"plain", "llama-untied"}, {"patterns", "llama-untied"}, {"fused", "phi3"}, {"experts", "mixtral"}};
  const int n_matrices[] = {6, 8, 10, 32};  // q, k, v and gate, up of Phi-3 are bound one by one
  for (size_t i = 0; i < std::size(cases); ++i) {
    CAPTURE(i);
    const std::string directory = data_file(std::string("adapters/") + cases[i].first);
    const Golden golden(directory);
    on_every_level([&] {
      for (const auto& [dtype, limit] : {std::pair{WeightDType::f32, 5e-4}, {WeightDType::automatic, 0.03}, {WeightDType::i8, cases[i].second == std::string("mixtral") ? 0.6 : 0.25}}) {
        CAPTURE(limit);
        LoadOptions options;
        options.dtype = dtype;
        const std::string base = data_file(std::string("models/") + cases[i].second);
        const double without = relative_difference(Rig(Model::load(base, options), 2).logits(golden.ids), golden.logits);
        CHECK(without > 0.3);
        options.adapter = directory;
        const auto model = Model::load(base, options);
        if (dtype != WeightDType::i8) CHECK(model->n_adapted() == n_matrices[i]);
        CHECK(relative_difference(Rig(model, 2).logits(golden.ids), golden.logits) < limit);
      }
    });
  }
}

TEST_CASE("LoRA adapters: on top of a quantized base they give way to bfloat16 or to what was asked for") {
  const TempDir dir;  // an update of nothing: B is zero
  std::vector<float> a(4 * 64, 0.5f), b(64 * 4, 0.0f);
  const auto view = [](std::vector<float>& v, Shape shape) {
    return TensorView{DType::f32, std::move(shape), reinterpret_cast<const std::byte*>(v.data()), v.size() * sizeof(float)};
  };
  const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  const NamedTensor tensors[] = {{module + "A.weight", view(a, {4, 64})}, {module + "B.weight", view(b, {64, 4})}};
  write_safetensors(dir.file("adapter_model.safetensors"), tensors);
  dir.write("adapter_config.json", R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8})");
  LoadOptions options;
  options.adapter = dir.path();
  const auto model = Model::load(data_file("quantized/gptq-4bit"), options);
  CHECK(model->weights().layers[0].wq.w.format == Format::bf16);
  CHECK(model->weights().layers[0].wk.w.format == Format::i4);
  options.dtype = WeightDType::i4;
  CHECK(Model::load(data_file("quantized/gptq-4bit"), options)->weights().layers[0].wq.w.format == Format::i4);
}

TEST_CASE("LoRA adapters: other kinds and misfits are refused by name, in one line") {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"peft_type": "IA3"})", "peft_type: expected LORA"},
      {R"({"use_dora": true})", "DoRA"},
      {R"({"bias": "all"})", "bias"},
      {R"({"modules_to_save": ["lm_head"]})", "modules_to_save"},
      {R"({"init_lora_weights": "pissa"})", "init_lora_weights"},
      {R"({"trainable_token_indices": [1]})", "trainable_token_indices"},
      {R"({"target_parameters": ["experts.gate_up_proj"]})", "target_parameters"},
      {R"({"layer_replication": [[0, 2]]})", "layer_replication"},
      {R"({"lora_bias": true})", "lora_bias"},
      {R"({"r": 0})", "r: expected a whole number"},
      {R"({"r": 3})", "lora_A.weight expected [3, 40] of F32, BF16 or F16, got [4, 40]"},
      {R"({"rank_pattern": {"q_proj": 2}})", "lora_A.weight expected [2, 40] of F32, BF16 or F16, got [4, 40]"},
      {R"({"rank_pattern": {".*q_proj": 4}})", "regular expressions"},
      {R"({"lora_alpha": "many"})", "lora_alpha"},
  };
  const std::string from = data_file("adapters/plain");
  for (const auto& [changes, words] : cases) {
    CAPTURE(std::string(changes));
    const TempDir dir;
    std::filesystem::copy_file(from + "/adapter_model.safetensors", dir.file("adapter_model.safetensors"));
    Json config = read_json_file(from + "/adapter_config.json");
    config.update(parse_json(changes, "changes"));
    dir.write("adapter_config.json", dump_json(config));
    LoadOptions options;
    options.adapter = dir.path();
    const std::string message = refusal(data_file("models/llama-untied"), options);
    CAPTURE(message);
    CHECK(message.find(words) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
  LoadOptions options;
  options.adapter = from;
  CHECK(refusal(data_file("models/qwen2"), options).find("lora_A.weight expected") != std::string::npos);
  options.adapter = data_file("adapters/fused");
  CHECK(refusal(data_file("models/llama-untied"), options).find("fit no matrix of the model") != std::string::npos);
  options.adapter = data_file("models/qwen2");
  CHECK(refusal(data_file("models/qwen2"), options).find("adapter_config.json") != std::string::npos);
}
