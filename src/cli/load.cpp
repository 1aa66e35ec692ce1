#include "cli/load.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/builtin_files.h"
#include "cli/plan.h"
#include "cli/progress.h"
#include "cli/terminal.h"

namespace engine::cli {
namespace {

/// Of a server's step: who arrives meanwhile waits for it, and so does the next token of everybody else.
constexpr double server_step_s = 0.25;

WeightDType weight_dtype(const Options& options) {
  switch (options.dtype) {
    case DTypeChoice::float32: return WeightDType::f32;
    case DTypeChoice::bfloat16: return WeightDType::bf16;
    case DTypeChoice::float16: return WeightDType::f16;
    case DTypeChoice::int8: return WeightDType::i8;
    case DTypeChoice::int4: return WeightDType::i4;
    case DTypeChoice::automatic: break;
  }
  return WeightDType::automatic;
}

constexpr const char* format_names[] = {"float32", "bfloat16", "float16", "int8", "int4", "MXFP4", "MXFP4"};
static_assert(std::size(format_names) == kernels::n_formats);

void tell_import(const Model& model, const Options& options) {
  // The demo's form is nobody's concern.
  if (!options.quiet && !is_builtin_directory(model.directory())) write_stderr(printable(import_text(model)));
}

void check_memory(const MemoryPlan& plan, uint64_t limit) {
  if (plan.total_bytes <= limit) return;
  const std::string sizes = "weights " + bytes_text(plan.weight_bytes) + ", KV cache " + bytes_text(plan.kv_bytes) + " for " +
                            std::to_string(plan.ctx) + " positions, scratch " + bytes_text(plan.scratch_bytes);
  throw Error("--mem: expected at least " + bytes_text(plan.total_bytes) + " (" + sizes + "), got " + bytes_text(limit),
              plan.largest_ctx > 0 ? "--ctx " + std::to_string(plan.largest_ctx) + " would fit" : "weights and scratch alone do not fit");
}

}  // namespace

LoadOptions load_options(const Options& options) {
  LoadOptions load;
  load.dtype = weight_dtype(options);
  load.group = options.group_size;
  load.adapter = options.adapter;
  return load;
}

std::string import_text(const Model& model) {
  std::string out;
  for (size_t i = 0; i < model.imported().size(); ++i) {
    const ImportedWeights& line = model.imported()[i];
    if (line.n_matrices == 0) continue;
    char cost[64] = "bit for bit";
    const double rms = line.squared_sum > 0 ? std::sqrt(line.squared_error / line.squared_sum) : 0;
    if (rms > 0) std::snprintf(cost, sizeof cost, "relative RMS error %.2g", rms);
    out += model.import_format() + ": " + std::to_string(line.n_matrices) + " matrices as " + format_names[i] + ", " + cost + "\n";
  }
  if (model.n_adapted() > 0) out += "adapter: " + std::to_string(model.n_adapted()) + " matrices changed\n";
  return out;
}

void select_isa(const Options& options) {
  const char* variable = std::getenv("ENGINE_ISA");
  const bool from_flag = !options.isa.empty();
  const std::string name = from_flag ? options.isa : (variable != nullptr ? variable : "");
  if (name.empty() || kernels::select(name.c_str())) return;
  const std::string where = from_flag ? "--isa" : "ENGINE_ISA";
  int n_levels = 0;
  const kernels::Level* levels = kernels::levels(&n_levels);
  std::string usable;
  for (int i = 0; i < n_levels; i++) {
    if (name == levels[i].name) throw Error(where + ": " + name + " cannot run on this machine", "`engine version` lists what can");
    if (levels[i].usable) usable += (usable.empty() ? "" : ", ") + std::string(levels[i].name);
  }
  throw UsageError(where + ": expected one of " + usable + ", got '" + name + "'");
}

std::optional<kernels::KvFormat> wanted_kv_format(const Options& options) {
  switch (options.kv_dtype) {
    case KvDTypeChoice::float32: return kernels::KvFormat::f32;
    case KvDTypeChoice::bfloat16: return kernels::KvFormat::bf16;
    case KvDTypeChoice::int8: return kernels::KvFormat::i8;
    case KvDTypeChoice::automatic: break;
  }
  return std::nullopt;
}

kernels::KvFormat kv_format(const Options& options, const Model& model) {
  return wanted_kv_format(options).value_or(natural_kv_format(model));
}

std::shared_ptr<const Model> load_plan(const std::string& directory, const Options& options) {
  LoadOptions load = load_options(options);
  load.bind_only = true;
  return Model::load(directory, load);
}

std::shared_ptr<const Model> load_model(const std::string& directory, const Options& options, Team& team) {
  Progress bar("loading", options.quiet);
  LoadOptions load = load_options(options);
  load.team = &team;
  load.progress = [&bar](uint64_t done, uint64_t total) { bar.update(done, total); };
  auto model = Model::load(directory, load);
  bar.clear();
  tell_import(*model, options);
  return model;
}

/// Of the draft model, for as many positions as the model's plan has.
MemoryPlan draft_plan(const std::string& directory, const Options& options, int64_t ctx) {
  Options of_draft = options;
  of_draft.adapter.clear();
  of_draft.draft.clear();
  const std::shared_ptr<const Model> model = load_plan(directory, of_draft);
  of_draft.ctx = std::min(ctx, model->spec().max_positions);
  of_draft.kv_dtype = KvDTypeChoice::automatic;
  return plan_memory(model, of_draft);
}

std::unique_ptr<Engine> load_engine(const Options& options) {
  select_isa(options);
  const std::string directory = resolve_model(options.model, options.revision);
  EngineOptions wanted;
  wanted.n_threads = options.n_threads;
  wanted.load = load_options(options);
  wanted.scheduler.max_sequences = std::max(options.parallel, 1);
  if (options.parallel > 0) wanted.scheduler.max_step_s = server_step_s;
  wanted.scheduler.context = options.ctx;
  wanted.kv_format = wanted_kv_format(options);
  wanted.chat_template = options.chat_template;
  if (!options.draft.empty()) wanted.draft_directory = resolve_model(options.draft, "main");
  if (options.mem_bytes) {
    MemoryPlan plan = plan_memory(load_plan(directory, options), options);
    const MemoryPlan draft = options.draft.empty() ? MemoryPlan() : draft_plan(wanted.draft_directory, options, plan.ctx);
    plan.weight_bytes += draft.weight_bytes;
    plan.scratch_bytes += draft.scratch_bytes;
    plan.kv_bytes += draft.kv_bytes;
    plan.total_bytes += draft.total_bytes;
    check_memory(plan, *options.mem_bytes);
    // Both caches hold the same positions.
    const uint64_t kv_budget = *options.mem_bytes - plan.weight_bytes - plan.scratch_bytes;
    const double share = static_cast<double>(draft.kv_bytes_per_position) / static_cast<double>(draft.kv_bytes_per_position + plan.kv_bytes_per_position);
    wanted.scheduler.draft_kv_budget_bytes = static_cast<uint64_t>(share * static_cast<double>(kv_budget));
    wanted.scheduler.kv_budget_bytes = kv_budget - wanted.scheduler.draft_kv_budget_bytes;
  }
  Progress bar("loading", options.quiet);
  wanted.load.progress = [&bar](uint64_t done, uint64_t total) { bar.update(done, total); };
  auto engine = std::make_unique<Engine>(directory, wanted);
  bar.clear();
  tell_import(engine->model(), options);
  return engine;
}

GenerationConfig make_config(const Engine& engine, const Options& options) {
  GenerationConfig config = engine.default_config();
  bool length_given = config.max_new_tokens || config.max_length;
  if (!options.generation_config.empty()) {
    config.apply(read_json_file(options.generation_config), options.generation_config, false);
    length_given = config.max_new_tokens || config.max_length;
  }
  for (const Setting& setting : options.settings) {
    config.set(setting.key, setting.value);
    length_given |= setting.key == "max_new_tokens" || setting.key == "max_length";
  }
  if (!length_given) config.max_new_tokens = 256;
  return config;
}

}  // namespace engine::cli
