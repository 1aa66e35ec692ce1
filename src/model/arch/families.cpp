// The table of families: a new one is one file and one row.
#include "model/arch/families.h"

namespace engine {

std::span<const Family> families() {
  static constexpr Family table[] = {
      {"LlamaForCausalLM", "llama", parse_llama, bind_llama_family},
      {"MistralForCausalLM", "mistral", parse_mistral, bind_mistral},
      {"Qwen2ForCausalLM", "qwen2", parse_qwen2, bind_qwen2},
      {"Qwen3ForCausalLM", "qwen3", parse_qwen3, bind_qwen3},
  };
  return table;
}

}  // namespace engine
