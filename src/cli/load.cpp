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

/// Positions that there must be room for where nobody said how many: a few questions and answers.
constexpr int64_t min_ctx = 256;

constexpr int64_t block = kernels::kv_block_tokens;

uint64_t kv_bytes(const MemoryPlan& plan, int64_t ctx) {
  return plan.kv_bytes_per_position * static_cast<uint64_t>((ctx + block - 1) / block * block);
}

int64_t positions_in(const MemoryPlan& plan, uint64_t bytes) {
  return static_cast<int64_t>(bytes / plan.kv_bytes_per_position) / block * block;
}

std::string sizes_text(uint64_t weights, const MemoryPlan& plan, int64_t ctx) {
  return bytes_text(weights + plan.scratch_bytes + kv_bytes(plan, ctx)) + " (weights " + bytes_text(weights) + ", KV cache " +
         bytes_text(kv_bytes(plan, ctx)) + " for " + std::to_string(ctx) + " positions, scratch " + bytes_text(plan.scratch_bytes) + ")";
}

/// The positions that must fit: those asked for, or the few that there must be.
int64_t least_ctx(const MemoryPlan& plan, const Options& options) { return options.ctx > 0 ? plan.ctx : std::min(plan.ctx, min_ctx); }

/// With --mem: bytes for KV caches. Throws Error if they are too few.
uint64_t kv_budget_of_limit(const MemoryPlan& plan, const Options& options) {
  const uint64_t limit = *options.mem_bytes, fixed = plan.weight_bytes + plan.scratch_bytes;
  const int64_t ctx = least_ctx(plan, options);
  const uint64_t left = limit > fixed ? limit - fixed : 0;
  if (left < kv_bytes(plan, ctx)) {
    const int64_t fitting = positions_in(plan, left);
    throw Error("--mem: expected at least " + sizes_text(plan.weight_bytes, plan, ctx) + ", got " + bytes_text(limit),
                fitting > 0 ? "--ctx " + std::to_string(fitting) + " would fit" : "weights and scratch alone do not fit");
  }
  return left;
}

/// Without: of what is available, the tenth that is left out being for all that is not in the plan (the tokenizer, stacks). Weights in mapped
/// files are no reason to refuse, only slow where memory does not hold them. Throws Error if the rest does not fit, with `ctx` positions, or
/// the few that there must be. `has_mem`: the command has an option --mem.
uint64_t kv_budget_of_machine(const MemoryPlan& plan, const Options& options, bool has_mem) {
  const uint64_t usable = plan.available.bytes / 10 * 9, fixed = plan.owned_bytes + plan.scratch_bytes;
  const int64_t ctx = least_ctx(plan, options);
  const uint64_t left = usable > fixed ? usable - fixed : 0, least = kv_bytes(plan, ctx);
  const auto usable_text = [&] { return bytes_text(usable) + " (what " + plan.available.set_by + " leaves, less a tenth)"; };
  if (left < least) {
    const int64_t fitting = positions_in(plan, left);
    throw Error("memory: expected at least " + sizes_text(plan.owned_bytes, plan, ctx) + ", got " + usable_text(),
                (fitting > 0 ? "--ctx " + std::to_string(fitting) + " would fit" : std::string("a smaller --dtype takes less")) +
                    (has_mem ? "; --mem SIZE in place of what was found" : ""));
  }
  const uint64_t mapped = plan.weight_bytes - plan.owned_bytes;
  if (left - least >= mapped) return left - mapped;
  if (!options.quiet) {
    write_stderr("memory: " + bytes_text(mapped) + " of weights do not fit into " + usable_text() +
                 ": they will be read from the file again and again\n");
  }
  return std::max(least, left / 2);
}

}  // namespace

kernels::Format output_format(const Options& options) {
  if (!options.output_dtype) return kernels::Format::i8;
  if (options.dtype != DTypeChoice::int4) throw UsageError("--output-dtype: goes with --dtype int4");
  return *options.output_dtype == DTypeChoice::int4 ? kernels::Format::i4 : kernels::Format::i8;
}

LoadOptions load_options(const Options& options) {
  LoadOptions load;
  load.dtype = weight_dtype(options);
  if (options.group_size && load.dtype != WeightDType::i8 && load.dtype != WeightDType::i4) {
    throw UsageError("--group-size: goes with --dtype int8 or int4");
  }
  load.group = options.group_size.value_or(LoadOptions().group);
  load.output = output_format(options);
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
  (void)kv_budget_of_machine(plan_memory(load_plan(directory, options), options), options, false);
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
  MemoryPlan plan = plan_memory(load_plan(directory, options), options);
  const MemoryPlan draft = options.draft.empty() ? MemoryPlan() : draft_plan(wanted.draft_directory, options, plan.ctx);
  // Both caches hold the same positions.
  const double share = static_cast<double>(draft.kv_bytes_per_position) / static_cast<double>(draft.kv_bytes_per_position + plan.kv_bytes_per_position);
  plan.weight_bytes += draft.weight_bytes;
  plan.owned_bytes += draft.owned_bytes;
  plan.scratch_bytes += draft.scratch_bytes;
  plan.kv_bytes += draft.kv_bytes;
  plan.kv_bytes_per_position += draft.kv_bytes_per_position;
  const uint64_t kv_budget = options.mem_bytes ? kv_budget_of_limit(plan, options) : kv_budget_of_machine(plan, options, true);
  // Who comes to a server decides how much is asked for, so there it is always bounded.
  if (options.mem_bytes || options.parallel > 0 || plan.kv_bytes > kv_budget) {
    wanted.scheduler.draft_kv_budget_bytes = static_cast<uint64_t>(share * static_cast<double>(kv_budget));
    wanted.scheduler.kv_budget_bytes = kv_budget - wanted.scheduler.draft_kv_budget_bytes;
  }
  if (plan.ctx > plan.trained_ctx && plan.trained_ctx > 0 && !options.quiet) {
    write_stderr("--ctx: " + std::to_string(plan.ctx) + " positions, and the model was made for " + std::to_string(plan.trained_ctx) + "\n");
  }
  if (plan.kv_bytes > kv_budget && !options.quiet) {
    write_stderr("context: " + std::to_string(positions_in(plan, kv_budget)) + " of " + std::to_string(plan.ctx) + " positions fit into " +
                 (options.mem_bytes ? std::string("--mem") : std::string("what ") + plan.available.set_by + " leaves") + "\n");
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
  // As Transformers says, and just as little an error.
  for (const Setting& setting : options.settings) {
    const bool of_sampling = setting.key == "temperature" || setting.key == "top_k" || setting.key == "top_p" || setting.key == "min_p" || setting.key == "typical_p";
    if (!of_sampling || config.do_sample || options.quiet) continue;
    write_stderr(setting.key + ": has no effect without do_sample=True" + (options.parallel > 0 ? ", but where a request asks for sampling" : "") + "\n");
    break;
  }
  return config;
}

}  // namespace engine::cli
