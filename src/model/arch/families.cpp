// The table of families: a new one is one file and one row.
#include "model/arch/families.h"

namespace engine {

std::span<const Family> families() {
  static constexpr Family table[] = {
      {"LlamaForCausalLM", "llama", parse_llama, bind_llama_family},
      {"Llama4ForCausalLM", "llama4_text", parse_llama4, bind_llama4,
       R"({"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,)"
       R"("rope_theta": 500000, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1,)"
       R"("attention_chunk_size": 8192})"},
      {"MistralForCausalLM", "mistral", parse_mistral, bind_mistral,
       R"({"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096})"},
      {"MixtralForCausalLM", "mixtral", parse_mixtral, bind_mixtral,
       R"({"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6,)"
       R"("num_local_experts": 8, "num_experts_per_tok": 2})"},
      {"Qwen2ForCausalLM", "qwen2", parse_qwen2, bind_qwen2,
       R"({"num_key_value_heads": 32, "max_position_embeddings": 32768})"},
      {"Qwen2MoeForCausalLM", "qwen2_moe", parse_qwen2_moe, bind_qwen2_moe,
       R"({"num_key_value_heads": 16, "max_position_embeddings": 32768, "num_experts_per_tok": 4,)"
       R"("moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632})"},
      {"Qwen3ForCausalLM", "qwen3", parse_qwen3, bind_qwen3,
       R"({"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768})"},
      {"Qwen3MoeForCausalLM", "qwen3_moe", parse_qwen3_moe, bind_qwen3_moe,
       R"({"num_key_value_heads": 4, "max_position_embeddings": 32768, "num_experts_per_tok": 8,)"
       R"("moe_intermediate_size": 768})"},
      {"GptOssForCausalLM", "gpt_oss", parse_gpt_oss, bind_gpt_oss,
       R"({"num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,)"
       R"("rope_theta": 150000, "sliding_window": 128, "num_local_experts": 128})"},
      {"DbrxForCausalLM", "dbrx", parse_dbrx, bind_dbrx},
      {"Phi3ForCausalLM", "phi3", parse_phi3, bind_phi3,
       R"({"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5})"},
      {"Gemma2ForCausalLM", "gemma2", parse_gemma2, bind_gemma,
       R"({"num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,)"
       R"("tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,)"
       R"("attn_logit_softcapping": 50, "final_logit_softcapping": 30})"},
      {"Gemma3ForCausalLM", "gemma3_text", parse_gemma3, bind_gemma,
       R"({"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,)"
       R"("max_position_embeddings": 131072, "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096})"},
      {"SmolLM3ForCausalLM", "smollm3", parse_smollm3, bind_llama_family,
       R"({"num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2e6,)"
       R"("tie_word_embeddings": true})"},
      {"GraniteForCausalLM", "granite", parse_granite, bind_llama_family},
      {"GraniteMoeForCausalLM", "granitemoe", parse_granite_moe, bind_granite_moe,
       R"({"num_local_experts": 8, "num_experts_per_tok": 2})"},
      {"Olmo2ForCausalLM", "olmo2", parse_olmo2, bind_olmo2, R"({"rms_norm_eps": 1e-5})"},
      {"StableLmForCausalLM", "stablelm", parse_stablelm, bind_stablelm,
       R"({"num_key_value_heads": 32, "max_position_embeddings": 4096})"},
      {"Starcoder2ForCausalLM", "starcoder2", parse_starcoder2, bind_starcoder2,
       R"({"num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": true,)"
       R"("hidden_act": "gelu_pytorch_tanh"})"},
      {"CohereForCausalLM", "cohere", parse_cohere, bind_cohere,
       R"({"max_position_embeddings": 8192, "rope_theta": 500000, "tie_word_embeddings": true})"},
      {"Cohere2ForCausalLM", "cohere2", parse_cohere2, bind_cohere,
       R"({"max_position_embeddings": 8192, "tie_word_embeddings": true, "sliding_window": 4096})"},
  };
  return table;
}

std::span<const Wrapper> wrappers() {
  static constexpr Wrapper table[] = {
      {"Gemma3ForConditionalGeneration", "gemma3_text"},
      {"Llama4ForConditionalGeneration", "llama4_text"},
      {"Mistral3ForConditionalGeneration", "mistral"},
  };
  return table;
}

}  // namespace engine
