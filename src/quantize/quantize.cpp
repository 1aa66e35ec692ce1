#include "quantize/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "model/matrix_source.h"
#include "quantize/calibrate.h"

namespace engine {
namespace {

using kernels::Format;

constexpr int64_t sequence_tokens = 256;
constexpr int64_t max_held_out = 2048;  // tokens

std::string module_name(const std::string& tensor) { return tensor.substr(0, tensor.size() - std::string_view(".weight").size()); }

/// What to write, and which of the model's matrices go where.
struct Plan {
  std::vector<QuantizedModule> modules;
  ModuleMap map;
  std::vector<std::string> ignored;
  std::string output;  // the output matrix's module, if it is quantized
  bool untied = false;
  size_t n_unsuited = 0;
};

Plan make_plan(const Model& model, const std::vector<BoundMatrix>& bound, const Checkpoint& checkpoint, const QuantizeOptions& options) {
  Plan plan;
  // A tensor can be written as integers if it is a linear module's own weight and all its matrices may be quantized.
  std::set<std::string> unsuited;
  for (const BoundMatrix& b : bound) {
    const TensorView* t = checkpoint.find(b.tensor);
    if (b.exact || b.row_step != 1 || t->shape.size() != 2 || !b.tensor.ends_with(".weight")) unsuited.insert(b.tensor);
  }
  std::map<std::string, size_t> index;  // of a module
  for (const BoundMatrix& b : bound) {
    ModuleRows& rows = plan.map[b.matrix];
    const bool tied = b.output && model.spec().tied_embeddings;
    const std::string name = module_name(b.output && !b.output_tensor.empty() ? b.output_tensor : b.tensor);
    if (unsuited.contains(b.tensor)) {
      const bool table = b.matrix == &model.weights().embedding;  // no linear module
      plan.n_unsuited += !b.exact;
      if (!table && b.tensor.ends_with(".weight")) plan.ignored.push_back(module_name(b.tensor));
      continue;
    }
    if (b.output && options.keep_output) {
      plan.ignored.push_back(name);
      continue;
    }
    if (!index.contains(name)) {
      const TensorView& t = *checkpoint.find(b.tensor);
      index[name] = plan.modules.size();
      plan.modules.push_back({name, b.tensor, t.dim(0), t.dim(1), b.output ? options.output : options.format, options.group});
    }
    if (b.output) plan.output = name, plan.untied = tied;
    else rows = {nullptr, b.first_row};
  }
  // What the model does not use (the layers of a draft head) is copied.
  std::set<std::string> used;
  for (const BoundMatrix& b : bound) used.insert(b.tensor);
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (!used.contains(name) && view.shape.size() == 2 && name.ends_with(".weight") && !index.contains(module_name(name))) plan.ignored.push_back(module_name(name));
  }
  std::sort(plan.ignored.begin(), plan.ignored.end());
  plan.ignored.erase(std::unique(plan.ignored.begin(), plan.ignored.end()), plan.ignored.end());
  for (const BoundMatrix& b : bound) {
    const auto found = index.find(module_name(b.tensor));
    if (!b.output && found != index.end()) plan.map[b.matrix].module = &plan.modules[found->second];
  }
  return plan;
}

/// Rounds a module's rows to nearest, a part at a time.
bool write_rounded(DirectoryWriter& writer, const QuantizedModule& module, Team& team, const std::function<bool(uint64_t)>& progress) {
  const int64_t step = std::max<int64_t>(16, (int64_t{4} << 20) / module.n_cols);
  const TensorView& t = *writer.checkpoint().find(module.tensor);
  const auto source = stored_rows(t, 0, module.n_rows);
  for (int64_t first = 0; first < module.n_rows; first += step) {
    const int64_t n = std::min(step, module.n_rows - first);
    QuantizedRows q(module.format, module.group, n, module.n_cols);
    std::atomic<bool> finite = true;
    team.run([&](Worker& w) {
      std::vector<float> row(static_cast<size_t>(module.n_cols));
      w.for_chunks(n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          source->read_row(first + r, row.data());
          if (!std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); })) {
            finite = false;
            continue;
          }
          kernels::table().quantize_row(module.format, module.group, row.data(), module.n_cols, q.q.data() + r * module.n_cols,
                                        q.scales.data() + r * module.n_groups());
        }
      });
    });
    if (!finite) throw Error(module.tensor + ": expected finite weights, got some that are not");
    writer.put_rows(module, first, n, q.q.data(), q.scales.data());
    if (!progress(t.n_bytes / static_cast<uint64_t>(module.n_rows) * static_cast<uint64_t>(n))) return false;
  }
  return true;
}

/// All that calibration does not write.
bool write_rest(DirectoryWriter& writer, const Plan& plan, Team& team, const QuantizeOptions& options) {
  constexpr uint64_t pages_kept = uint64_t{128} << 20;
  std::vector<const QuantizedModule*> modules;
  uint64_t total = 0, done = 0, touched = 0;
  for (const QuantizedModule& m : plan.modules) {
    if (options.calibrate && m.name != plan.output) continue;
    modules.push_back(&m);
    total += writer.checkpoint().find(m.tensor)->n_bytes;
  }
  for (const std::string& name : writer.copied()) total += writer.checkpoint().find(name)->n_bytes;
  const auto progress = [&](uint64_t n) {
    done += n;
    touched += n;
    if (touched > pages_kept) writer.checkpoint().drop_pages(), touched = 0;
    return options.progress("quantizing", done, total);
  };
  for (const QuantizedModule* m : modules) {
    if (!write_rounded(writer, *m, team, progress)) return false;
  }
  for (const std::string& name : writer.copied()) {
    writer.copy(name);
    if (!progress(writer.checkpoint().find(name)->n_bytes)) return false;
  }
  return true;
}

void check_budget(const QuantizeOptions& options) {
  if (options.bits != 0 && (!options.calibrate || options.format != Format::i4)) {
    throw Error("--bits: needs --dtype int4 and --calibrate, which choose where bits are worth the most");
  }
}

double mean_bits(const Plan& plan) {
  double bits = 0, n = 0;
  for (const QuantizedModule& m : plan.modules) {
    if (m.name == plan.output) continue;
    const double weights = static_cast<double>(m.n_rows) * static_cast<double>(m.n_cols);
    bits += m.bits() * weights;
    n += weights;
  }
  return n > 0 ? bits / n : 0;
}

/// What to calibrate with, and apart from it what to compare the models on.
Sequences calibration_text(const std::shared_ptr<const Model>& model, Team& team, const QuantizeOptions& options, QuantizeSummary* summary) {
  const int64_t longest = model->spec().max_positions > 0 ? model->spec().max_positions : sequence_tokens;
  const int64_t length = std::max<int64_t>(2, std::min({sequence_tokens, longest, std::max<int64_t>(options.n_tokens / 8, 16)}));
  const int64_t apart = std::max(length, std::min(options.n_tokens / 4, max_held_out));
  Sequences all = options.text.empty()
                      ? own_samples(model, team, options.bos, length, options.n_tokens + apart,
                                    [&](uint64_t done, uint64_t total) { return options.progress("sampling", done, total); })
                      : cut_text(options.text, options.bos, length, options.n_tokens + apart);
  const size_t n_apart = std::max<size_t>(1, std::min(all.size() / 5, static_cast<size_t>(apart / length)));
  for (size_t i = 0; i < n_apart && all.size() > 1; ++i, all.pop_back()) {
    const auto& s = all.back();
    summary->held_out.insert(summary->held_out.end(), s.begin() + (options.bos ? 1 : 0), s.end());
  }
  summary->held_out_length = length;
  return all;
}

}  // namespace

QuantizeSummary quantize_model(const std::string& directory, const std::string& out, Team& team, const QuantizeOptions& options) {
  check_budget(options);
  std::vector<BoundMatrix> bound;
  LoadOptions load;
  load.team = &team;
  load.bound = &bound;
  const std::shared_ptr<const Model> model = Model::load(directory, load);
  if (model->wrapped()) throw Error(directory + ": expected a text model, got one with parts for images, which quantize does not write");
  const Json config = read_json_file(directory + "/config.json", size_t{16} << 20);
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (!config.contains(key) || config[key].is_null()) continue;
    throw Error(directory + ": expected a model with weights in a float format, got one in " + model->import_format());
  }
  const Checkpoint checkpoint(directory);
  Plan plan = make_plan(*model, bound, checkpoint, options);
  QuantizeSummary summary;
  summary.stopped = true;
  Sequences sequences;
  if (options.calibrate) {
    sequences = calibration_text(model, team, options, &summary);
    if (sequences.empty()) return summary;
    if (options.bits != 0 && !choose_formats(model, team, sequences, plan.map, options)) return summary;
  }
  WriterOptions how;
  how.max_shard_bytes = options.max_shard_bytes;
  how.packed = options.format == Format::i4;
  how.ignored = plan.ignored;
  how.untied = plan.untied;
  DirectoryWriter writer(directory, out, plan.modules, how);
  if (options.calibrate && !calibrate(model, team, sequences, plan.map, options, writer)) return summary;
  if (!write_rest(writer, plan, team, options)) return summary;
  writer.finish();
  summary.stopped = false;
  summary.n_modules = plan.modules.size();
  summary.n_unsuited = plan.n_unsuited;
  summary.bits = mean_bits(plan);
  summary.output_quantized = !plan.output.empty();
  summary.source_bytes = checkpoint.total_bytes();
  summary.bytes = writer.n_bytes();
  return summary;
}

}  // namespace engine
