#include "model/model.h"

#include <sys/stat.h>

#include <cmath>

#include "base/builtin_files.h"
#include "base/error.h"
#include "base/json.h"
#include "model/adapter.h"
#include "model/arch/family.h"
#include "model/binder.h"
#include "model/import/importer.h"

namespace engine {
namespace {

std::string known_families() {
  std::string list;
  for (const Family& f : families()) list += (list.empty() ? "" : ", ") + std::string(f.architecture);
  for (const Wrapper& w : wrappers()) list += ", " + std::string(w.architecture);
  return list;
}

/// auto_map names Python files that come with the checkpoint. Nothing of that kind is run: fine where it is the code of a family that is
/// built in (as the first files of Phi-3 and DBRX have it), but any other class computes something that nobody here knows.
void refuse_own_code(const ConfigReader& config, const Family& family) {
  if (!config.has("auto_map")) return;
  const std::string name = family.architecture, stem = name.substr(0, name.find("For"));
  const ConfigReader map = config.object("auto_map");
  for (const auto& [key, value] : map.json().items()) {
    if (key == "AutoTokenizer" || key == "AutoProcessor") continue;
    const std::string code = value.is_string() ? value.get<std::string>() : "";
    if (code.substr(code.rfind('.') + 1).rfind(stem, 0) != 0) {
      map.fail(key, "the code of " + name + " (Python files beside a checkpoint are not run)");
    }
  }
}

/// By architectures[0]; by model_type where a config has no architectures.
const Family& find_family(const ConfigReader& config) {
  const Json& json = config.json();
  const auto list = json.find("architectures");
  if (list != json.end() && list->is_array() && !list->empty() && (*list)[0].is_string()) {
    const std::string name = (*list)[0].get<std::string>();
    for (const Family& f : families()) {
      if (name == f.architecture) return f;
    }
    throw Error(config.path() + ": architectures: '" + name + "' is not supported", "supported: " + known_families());
  }
  const std::string type = config.string_or("model_type", "");
  for (const Family& f : families()) {
    if (type == f.model_type) return f;
  }
  throw Error(config.path() + ": expected a known architecture, got model_type '" + type + "' and no architectures",
              "supported: " + known_families());
}

/// Of a text model with parts for images beside it, the text model's own configuration: text_config, and what only stands outside of it.
bool unwrap_text_config(Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  const auto list = json.find("architectures");
  if (list == json.end() || !list->is_array() || list->empty() || !(*list)[0].is_string()) return false;
  for (const Wrapper& w : wrappers()) {
    if ((*list)[0].get<std::string>() != w.architecture) continue;
    Json text = config.object("text_config").json();
    const ConfigReader inner(text, path + ": text_config");
    if (inner.string_or("model_type", w.model_type) != w.model_type) inner.fail("model_type", w.model_type);
    text.erase("architectures");
    text["model_type"] = w.model_type;
    for (const auto& [key, value] : json.items()) {
      if (key == "tie_word_embeddings" || (!text.contains(key) && key != "architectures")) text[key] = value;
    }
    json = std::move(text);
    return true;
  }
  return false;
}

uint64_t matrix_elements(const kernels::Matrix& m) {
  return m.data == nullptr ? 0 : static_cast<uint64_t>(m.n_rows) * static_cast<uint64_t>(m.n_cols);
}

uint64_t matrix_bytes(const kernels::Matrix& m) {
  if (m.data == nullptr) return 0;
  if (!kernels::is_packed(m.format)) return matrix_elements(m) * (m.format == kernels::Format::f32 ? 4 : 2);
  const uint64_t n_blocks = static_cast<uint64_t>((m.n_rows + kernels::pack_rows - 1) / kernels::pack_rows);
  return n_blocks * kernels::table().packed_block_bytes(m.format, m.n_cols, m.group);
}

/// Sums f over the matrices read for one token; experts count by the share that is used.
template <class F>
uint64_t sum_active(const ModelSpec& spec, const Weights& w, F&& f) {
  uint64_t n = f(w.output.w);
  for (const LayerWeights& l : w.layers) {
    for (const Linear* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down, &l.w_router, &l.shared.gate, &l.shared.up,
                            &l.shared.down, &l.shared_gate}) {
      n += f(m->w);
    }
    uint64_t experts = 0;
    for (const ExpertWeights& e : l.experts) experts += f(e.gate.w) + f(e.up.w) + f(e.down.w);
    if (!l.experts.empty()) n += experts * static_cast<uint64_t>(spec.moe.n_used) / l.experts.size();
  }
  return n;
}

}  // namespace

float ModelSpec::q_scale() const {
  return attention_scale != 0 ? attention_scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(d_head)));
}

Model::~Model() = default;

std::vector<std::string> Model::architectures() {
  std::vector<std::string> names;
  for (const Family& f : families()) names.emplace_back(f.architecture);
  return names;
}

std::shared_ptr<const Model> Model::load(const std::string& directory, const LoadOptions& options) {
  struct stat info;
  const bool builtin = is_builtin_directory(directory);
  if (!builtin && (stat(directory.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))) {
    throw Error(directory + ": expected a model directory, got " +
                (stat(directory.c_str(), &info) != 0 ? "nothing there" : "a file"));
  }
  const std::string path = directory + "/config.json";
  if (!builtin && stat(path.c_str(), &info) != 0) throw Error(directory + ": expected a model directory, got one without config.json");
  Json json = read_json_file(path, size_t{16} << 20);
  if (!json.is_object()) throw Error(path + ": expected a JSON object");
  const bool wrapped = unwrap_text_config(json, path);
  const Family& family = find_family(ConfigReader(json, path));
  const Json defaults = parse_json(family.defaults, family.architecture);
  for (const auto& [key, value] : defaults.items()) {
    if (!json.contains(key)) json[key] = value;
  }
  const ConfigReader config(json, path);
  refuse_own_code(config, family);

  std::shared_ptr<Model> model(new Model());
  model->directory_ = directory;
  model->spec_.architecture = family.architecture;
  model->spec_.model_type = family.model_type;
  family.parse(config, model->spec_);
  const ImportFormat* format = find_import_format(config);
  const auto importer = format != nullptr && format->make != nullptr ? format->make(quantization_config(config)) : nullptr;
  if (format != nullptr) model->import_format_ = import_name(*format);
  model->checkpoint_ = std::make_unique<Checkpoint>(directory);
  model->weights_.layers.resize(model->spec_.n_layers);
  const auto adapter = options.adapter.empty() ? nullptr : std::make_unique<Adapter>(options.adapter);
  model->wrapped_ = wrapped;
  Binder binder(*model, *model->checkpoint_, options, importer.get(), adapter.get());
  family.bind(binder, config);
  binder.check();
  if (adapter != nullptr) {
    adapter->check_all_taken();
    model->n_adapted_ = adapter->n_merged();
  }
  binder.finish();
  if (!model->weights_.output) model->weights_.output.w = model->weights_.embedding;  // tied
  model->n_active_parameters_ = sum_active(model->spec_, model->weights_, matrix_elements);
  model->active_bytes_ = sum_active(model->spec_, model->weights_, matrix_bytes);
  return model;
}

std::vector<TensorInfo> Model::tensors() const {
  std::vector<TensorInfo> out;
  for (const auto& [name, view] : checkpoint_->tensors()) {
    out.push_back({name, view.shape, std::string(dtype_name(view.dtype)), view.n_bytes});
  }
  return out;
}

}  // namespace engine
