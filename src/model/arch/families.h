// Entry points of the families' files, for the table in families.cpp and for families that build on others.
#pragma once

#include "model/arch/family.h"

namespace engine {

void parse_llama(const ConfigReader& config, ModelSpec& spec);
void parse_llama4(const ConfigReader& config, ModelSpec& spec);
void parse_mistral(const ConfigReader& config, ModelSpec& spec);
/// The window of Qwen's families counts only with use_sliding_window; 0: off. (Qwen2.5 configs carry a sliding_window that is switched off:
/// honouring it would change every answer longer than it.) Which layers slide differs from one to the next.
int parse_qwen_window(const ConfigReader& config);
void parse_qwen2(const ConfigReader& config, ModelSpec& spec);
void parse_qwen3(const ConfigReader& config, ModelSpec& spec);
void parse_mixtral(const ConfigReader& config, ModelSpec& spec);
void parse_qwen2_moe(const ConfigReader& config, ModelSpec& spec);
void parse_qwen3_moe(const ConfigReader& config, ModelSpec& spec);
void parse_dbrx(const ConfigReader& config, ModelSpec& spec);
void parse_phi3(const ConfigReader& config, ModelSpec& spec);
void parse_gpt_oss(const ConfigReader& config, ModelSpec& spec);
void parse_gemma2(const ConfigReader& config, ModelSpec& spec);
void parse_gemma3(const ConfigReader& config, ModelSpec& spec);
void parse_smollm3(const ConfigReader& config, ModelSpec& spec);
void parse_granite(const ConfigReader& config, ModelSpec& spec);
void parse_granite_moe(const ConfigReader& config, ModelSpec& spec);
void parse_olmo2(const ConfigReader& config, ModelSpec& spec);
void parse_stablelm(const ConfigReader& config, ModelSpec& spec);
void parse_starcoder2(const ConfigReader& config, ModelSpec& spec);
void parse_cohere(const ConfigReader& config, ModelSpec& spec);
void parse_cohere2(const ConfigReader& config, ModelSpec& spec);

void bind_llama_family(Binder& binder, const ConfigReader& config);
void bind_llama4(Binder& binder, const ConfigReader& config);
void bind_mistral(Binder& binder, const ConfigReader& config);
void bind_qwen2(Binder& binder, const ConfigReader& config);
void bind_qwen3(Binder& binder, const ConfigReader& config);
void bind_mixtral(Binder& binder, const ConfigReader& config);
void bind_qwen2_moe(Binder& binder, const ConfigReader& config);
void bind_qwen3_moe(Binder& binder, const ConfigReader& config);
void bind_dbrx(Binder& binder, const ConfigReader& config);
void bind_phi3(Binder& binder, const ConfigReader& config);
void bind_gpt_oss(Binder& binder, const ConfigReader& config);
void bind_gemma(Binder& binder, const ConfigReader& config);
void bind_granite_moe(Binder& binder, const ConfigReader& config);
void bind_olmo2(Binder& binder, const ConfigReader& config);
void bind_stablelm(Binder& binder, const ConfigReader& config);
void bind_starcoder2(Binder& binder, const ConfigReader& config);
void bind_cohere(Binder& binder, const ConfigReader& config);

}  // namespace engine
