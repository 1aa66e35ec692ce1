// Entry points of the families' files, for the table in families.cpp.
#pragma once

#include "model/arch/family.h"

namespace engine {

void parse_llama(const ConfigReader& config, ModelSpec& spec);
void bind_llama_family(Binder& binder, const ConfigReader& config);
void parse_mistral(const ConfigReader& config, ModelSpec& spec);
void bind_mistral(Binder& binder, const ConfigReader& config);

void parse_qwen2(const ConfigReader& config, ModelSpec& spec);
void bind_qwen2(Binder& binder, const ConfigReader& config);
void parse_qwen3(const ConfigReader& config, ModelSpec& spec);
void bind_qwen3(Binder& binder, const ConfigReader& config);

}  // namespace engine
