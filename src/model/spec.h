// What a model computes, as data: enums and numbers that the decoder follows. A family is one file in arch/ that maps config.json and
// tensor names onto this; the decoder knows no names.
//
// Shapes are written [outputs, inputs] as in the files. T: tokens of a batch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "kernels/kernels.h"

namespace engine {

enum class NormKind : uint8_t { rms, layer };
enum class QkNorm : uint8_t {
  none,
  per_head,  // over d_head of each head, one weight [d_head] for all heads (Qwen3, Gemma 3)
  full,      // over the whole projection, weight [n_heads * d_head] (OLMo 2)
  by_head,   // over d_head of each head, each head with its own weight [n_heads, d_head] (Cohere, StableLM)
  unit,      // over d_head of each head, without weights, after the rotation, in layers that have one (Llama 4)
};
enum class RouterKind : uint8_t {
  softmax_topk,  // softmax over all experts, then the k largest (Mixtral, Qwen-MoE, DBRX)
  topk_softmax,  // the k largest logits, then softmax over those (GPT-OSS, Granite)
  topk_sigmoid,  // the k largest logits, the sigmoid of each (Llama 4)
};

/// Rotary position embedding. Frequencies are prepared in double precision by arch/rope.cpp from rope_scaling.
struct RopeSpec {
  int n_rot = 0;                     // rotated channels at the start of each head, even, at most d_head
  std::vector<double> inv_freq;      // [n_rot / 2]
  double attention_factor = 1;       // multiplies cos and sin (YaRN, longrope)
  bool interleaved = false;          // pairs (2i, 2i+1) instead of (i, i + n_rot/2)
  // longrope: sequences longer than `original_positions` use these for all positions.
  std::vector<double> long_inv_freq; // empty: one regime
  int64_t original_positions = 0;
};

struct LayerSpec {
  int window = 0;     // sliding window W: query i sees keys j with i - W < j <= i. 0: all
  int chunk = 0;      // chunks of C positions: query i sees keys j <= i with j / C = i / C (Llama 4). 0: all
  int rope = 0;       // index into ModelSpec::ropes; -1: no position embedding in this layer (SmolLM3's NoPE)
  bool moe = false;   // mixture of experts instead of the dense feed-forward
  /// The first key that the query at `position` sees.
  int32_t first_key(int32_t position) const {
    return window > 0 ? (position < window ? 0 : position - window + 1) : chunk > 0 ? position / chunk * chunk : 0;
  }
};

struct MoeSpec {
  int n_experts = 0;
  int n_used = 0;              // experts a token goes through
  int d_expert = 0;            // their inner width
  RouterKind router = RouterKind::softmax_topk;
  bool normalize_topk = false; // softmax_topk: divide the selected weights by their sum
  bool scale_input = false;    // weights multiply what goes into the experts, not what comes out (Llama 4)
  int d_shared = 0;            // inner width of the shared expert; 0: none
  bool shared_gate = false;    // its output is multiplied by sigmoid(gate . x) (Qwen2-MoE)
};

struct ModelSpec {
  std::string architecture;    // config.json's own name, "LlamaForCausalLM"
  std::string model_type;      // "llama"

  int n_layers = 0;
  int d_model = 0;
  int n_heads = 0;
  int n_kv_heads = 0;          // divides n_heads
  int d_head = 0;
  int d_ff = 0;
  int vocab_size = 0;
  int64_t max_positions = 0;   // trained context length

  NormKind norm = NormKind::rms;
  float norm_eps = 1e-5f;
  bool norm_plus_one = false;  // the stored weight is w - 1 (Gemma)
  bool pre_norm = true;        // normalise what goes into attention and feed-forward
  bool post_norm = false;      // normalise what comes out, before the residual sum (Gemma 2/3, OLMo 2)
  bool parallel_block = false; // attention and feed-forward read the same normalised input (Cohere)
  QkNorm qk_norm = QkNorm::none;
  bool sinks = false;          // one extra softmax logit a head (GPT-OSS)
  float clip_qkv = 0;          // q, k, v clamped to +-this before RoPE (DBRX); 0: off
  float attention_scale = 0;   // multiplies q; 0: 1 / sqrt(d_head)
  float attention_softcap = 0;
  // In layers without position embedding q is multiplied by 1 + temperature_scale * log(1 + floor((position + 1) / temperature_floor)).
  float temperature_scale = 0;  // 0: off (Llama 4)
  float temperature_floor = 1;
  float logit_softcap = 0;
  float embedding_scale = 1;
  float residual_scale = 1;    // multiplies what attention and feed-forward add
  float logit_scale = 1;       // multiplies the logits

  kernels::Activation activation = kernels::Activation::silu;
  bool gated = true;           // activation(gate) * up; otherwise activation(up)
  float swiglu_limit = 0;      // GPT-OSS: gate clamped above, up to +-limit, (up + 1) * gate * sigmoid(1.702 gate); 0: off
  bool tied_embeddings = false;

  MoeSpec moe;
  std::vector<LayerSpec> layers;  // [n_layers]
  std::vector<RopeSpec> ropes;

  // Ids as config.json has them (-1 / empty: not given); generation_config.json overrides them.
  int32_t bos_token_id = -1;
  std::vector<int32_t> eos_token_ids;
  std::string torch_dtype;     // "bfloat16", ... as written; for people

  float q_scale() const;       // attention_scale or its default
};

}  // namespace engine
