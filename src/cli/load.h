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

/// The model alone, for commands that work on ids; `team` outlives it.
std::shared_ptr<const Model> load_model(const std::string& directory, const Options& options, Team& team);

/// --kv-dtype, or what suits the model.
kernels::KvFormat kv_format(const Options& options, const Model& model);

/// Settings for one run: the model's defaults < `max_new_tokens` 256 where nothing else bounds the answer (as Transformers' pipeline and
/// chat) < --generation-config < key=value.
GenerationConfig make_config(const Engine& engine, const Options& options);

}  // namespace engine::cli
