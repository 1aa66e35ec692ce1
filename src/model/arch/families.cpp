// The table of families: a new one is one file and one row.
#include "model/arch/families.h"

namespace engine {

std::span<const Family> families() {
  static constexpr Family table[] = {
      {"LlamaForCausalLM", "llama", parse_llama, bind_llama_family},
      {"MistralForCausalLM", "mistral", parse_mistral, bind_mistral},
      {"MixtralForCausalLM", "mixtral", parse_mixtral, bind_mixtral},
      {"Qwen2ForCausalLM", "qwen2", parse_qwen2, bind_qwen2},
      {"Qwen2MoeForCausalLM", "qwen2_moe", parse_qwen2_moe, bind_qwen2_moe},
      {"Qwen3ForCausalLM", "qwen3", parse_qwen3, bind_qwen3},
      {"Qwen3MoeForCausalLM", "qwen3_moe", parse_qwen3_moe, bind_qwen3_moe},
      {"GptOssForCausalLM", "gpt_oss", parse_gpt_oss, bind_gpt_oss},
      {"DbrxForCausalLM", "dbrx", parse_dbrx, bind_dbrx},
      {"Phi3ForCausalLM", "phi3", parse_phi3, bind_phi3},
      {"Gemma2ForCausalLM", "gemma2", parse_gemma2, bind_gemma},
      {"Gemma3ForCausalLM", "gemma3_text", parse_gemma3, bind_gemma},
      {"SmolLM3ForCausalLM", "smollm3", parse_smollm3, bind_llama_family},
      {"GraniteForCausalLM", "granite", parse_granite, bind_llama_family},
      {"GraniteMoeForCausalLM", "granitemoe", parse_granite_moe, bind_granite_moe},
      {"Olmo2ForCausalLM", "olmo2", parse_olmo2, bind_olmo2},
      {"StableLmForCausalLM", "stablelm", parse_stablelm, bind_stablelm},
      {"Starcoder2ForCausalLM", "starcoder2", parse_starcoder2, bind_starcoder2},
      {"CohereForCausalLM", "cohere", parse_cohere, bind_cohere},
      {"Cohere2ForCausalLM", "cohere2", parse_cohere2, bind_cohere},
  };
  return table;
}

}  // namespace engine
