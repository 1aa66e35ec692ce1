// From options to a loaded model.
#pragma once

#include <memory>

#include "cli/options.h"
#include "runtime/engine.h"

namespace engine::cli {

/// Chooses the instruction set (--isa, ENGINE_ISA). Throws.
void select_isa(const Options& options);

/// The scheduler serves options.parallel sequences at a time. Checks --mem before the weights are read. Throws Error.
std::unique_ptr<Engine> load_engine(const Options& options);

/// What the options say about weights; the rest at its default.
LoadOptions load_options(const Options& options);
/// What --output-dtype says. Throws UsageError where it makes no sense.
kernels::Format output_format(const Options& options);

/// "gptq: 14 matrices as int4, bit for bit\n", one line for each format that foreign matrices became; and what an adapter changed.
std::string import_text(const Model& model);

/// The model alone, for commands that work on ids; `team` outlives it.
std::shared_ptr<const Model> load_model(const std::string& directory, const Options& options, Team& team);

/// The model bound but not converted: what it is and what it would take. Its weights must not be read.
std::shared_ptr<const Model> load_plan(const std::string& directory, const Options& options);

/// --kv-dtype, or what suits the model.
kernels::KvFormat kv_format(const Options& options, const Model& model);

/// Settings for one run: the model's defaults < `max_new_tokens` 256 where nothing else bounds the answer (as Transformers' pipeline and
/// chat) < --generation-config < key=value.
GenerationConfig make_config(const Engine& engine, const Options& options);

}  // namespace engine::cli
