#!/usr/bin/env python3
"""Makes tests/data/models: tiny random-weight checkpoints with the logits that genuine Transformers computes for them.

Author-time only; neither build nor tests need it. Wants Transformers >= 5.12, PyTorch and tokenizers:

    make_tiny_models.py OUT [NAME...]      all models, or only those named ("tiny-chat": the one with tokenizer and template)

Each OUT/NAME holds config.json, generation_config.json, model.safetensors (or shards with an index) and reference.safetensors:
    input_ids  I64 [2, T]      two prompts
    logits     F32 [2, T, V]   full causal forward of each
    greedy_ids I64 [2, G]      greedy continuation, by recomputation of the whole sequence

The reference runs in float64 with eager attention (Transformers still does norms and rotary angles in float32: about 1e-6 of the
logits' spread). Weights are drawn so that the logits have a standard deviation of about 3 and every feature moves them; embeddings
are small, so that the norms' epsilon counts. A seed is taken only if no greedy step is decided by less than MIN_MARGIN logits and no
expert by less than MIN_ROUTER_MARGIN in the router's logits, and if greedy decoding does not fall into a loop at once.
"""

import json
import math
import os
import shutil
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import save_file

MIN_MARGIN = 0.02
MIN_ROUTER_MARGIN = 2e-3
PROMPT = 19
GREEDY = 12

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}


def default_rope(theta=10000.0, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


# name -> (class, config's arguments, how it is stored and shown). Storage: dtype, shards (None or bytes a shard), legacy (write
# config.json as Transformers 4 did: rope_theta and rope_scaling at the top, torch_dtype), prompt (tokens).
MODELS = {
    "llama-untied": ("Llama", dict(vocab_size=103, hidden_size=40, intermediate_size=44, num_hidden_layers=2, num_attention_heads=5,
                                   num_key_value_heads=5, max_position_embeddings=256, rms_norm_eps=1e-5,
                                   rope_parameters=default_rope(), tie_word_embeddings=False),
                     dict(dtype="float16", legacy=True)),
    "llama3-tied": ("Llama", dict(vocab_size=128, hidden_size=36, intermediate_size=60, num_hidden_layers=2, num_attention_heads=3,
                                  num_key_value_heads=1, head_dim=12, max_position_embeddings=512, rms_norm_eps=1e-5,
                                  rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
                    dict(dtype="bfloat16", shards=9000)),
    "llama-bias-linear": ("Llama", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, head_dim=10, max_position_embeddings=256,
                                        attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                                        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
                          dict(dtype="bfloat16", legacy=True)),
    "llama-yarn": ("Llama", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
                                 num_key_value_heads=1, head_dim=24, max_position_embeddings=256, tie_word_embeddings=True,
                                 rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 4.0,
                                                  "original_max_position_embeddings": 32}),
                   dict(dtype="bfloat16")),
    "qwen2": ("Qwen2", dict(vocab_size=96, hidden_size=28, intermediate_size=37, num_hidden_layers=2, num_attention_heads=7,
                            num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-6,
                            rope_parameters=default_rope(1e6), tie_word_embeddings=True),
              dict(dtype="float32", legacy=True)),
    # Layers 1 and 2 slide, layer 0 does not.
    "qwen2-window": ("Qwen2", dict(vocab_size=96, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3,
                                   num_key_value_heads=3, max_position_embeddings=256, use_sliding_window=True, sliding_window=7,
                                   max_window_layers=1, rope_parameters=default_rope(1e4), tie_word_embeddings=False),
                     dict(dtype="bfloat16")),
    "qwen3": ("Qwen3", dict(vocab_size=112, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3,
                            num_key_value_heads=1, head_dim=24, max_position_embeddings=256, rms_norm_eps=1e-6,
                            rope_parameters=default_rope(1e6), tie_word_embeddings=False),
              dict(dtype="bfloat16", shards=12000)),
    "mistral-window": ("Mistral", dict(vocab_size=120, hidden_size=32, intermediate_size=42, num_hidden_layers=2,
                                       num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
                                       rms_norm_eps=1e-5, sliding_window=6, rope_parameters=default_rope(1e4),
                                       tie_word_embeddings=False),
                       dict(dtype="bfloat16", legacy=True)),

    # --- mixtures of experts
    "mixtral": ("Mixtral", dict(vocab_size=96, hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, max_position_embeddings=256, num_local_experts=5, num_experts_per_tok=2,
                                rope_parameters=default_rope(1e6), tie_word_embeddings=False), dict(dtype="bfloat16", legacy=True)),
    # Layer 1 is dense; the selected weights are not normalised.
    "qwen2-moe": ("Qwen2Moe", dict(vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=12,
                                   shared_expert_intermediate_size=28, num_hidden_layers=3, num_attention_heads=3,
                                   num_key_value_heads=3, head_dim=8, max_position_embeddings=256, num_experts=6,
                                   num_experts_per_tok=3, norm_topk_prob=False, mlp_only_layers=[1], qkv_bias=True,
                                   rope_parameters=default_rope(1e4), tie_word_embeddings=True), dict(dtype="bfloat16")),
    # Layers 0 and 2 are dense (decoder_sparse_step).
    "qwen3-moe": ("Qwen3Moe", dict(vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=12,
                                   num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=12,
                                   max_position_embeddings=256, num_experts=7, num_experts_per_tok=3, norm_topk_prob=True,
                                   decoder_sparse_step=2, rope_parameters=default_rope(1e4), tie_word_embeddings=True),
                  dict(dtype="bfloat16")),
    "gpt-oss": ("GptOss", dict(vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                               num_key_value_heads=2, head_dim=12, max_position_embeddings=512, num_local_experts=5,
                               num_experts_per_tok=2, sliding_window=6,
                               rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 8.0,
                                                "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 64},
                               tie_word_embeddings=False), dict(dtype="bfloat16")),
    # Chunks shorter than the prompt, layer 1 without position embedding and with growing queries, layer 0 dense.
    "llama4": ("Llama4", dict(vocab_size=96, hidden_size=32, intermediate_size=12, intermediate_size_mlp=36, num_hidden_layers=3,
                              num_attention_heads=4, num_key_value_heads=2, head_dim=10, max_position_embeddings=256, num_local_experts=5,
                              num_experts_per_tok=2, moe_layers=[1, 2], no_rope_layers=[1, 0, 1], attention_chunk_size=7, floor_scale=5,
                              attn_scale=0.3, rope_parameters=default_rope(1e4), tie_word_embeddings=False),
               dict(dtype="bfloat16", config_class="Llama4TextConfig")),
    "granite-moe": ("GraniteMoe", dict(vocab_size=96, hidden_size=32, intermediate_size=20, num_hidden_layers=2,
                                       num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                                       num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=6.0,
                                       attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=4.0,
                                       rope_parameters=default_rope(1e4), tie_word_embeddings=True), dict(dtype="bfloat16")),

    # --- other dense families
    "phi3": ("Phi3", dict(vocab_size=96, hidden_size=36, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                          num_key_value_heads=1, max_position_embeddings=256, original_max_position_embeddings=256,
                          partial_rotary_factor=0.5, sliding_window=8, rope_parameters=default_rope(1e4),
                          tie_word_embeddings=False), dict(dtype="bfloat16")),
    # The prompt is longer than the original context: the long factors hold for all positions.
    "phi3-longrope": ("Phi3", dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                                   num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                                   original_max_position_embeddings=16,
                                   rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0,
                                                    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 7.0]},
                                   tie_word_embeddings=True), dict(dtype="bfloat16", legacy=True)),
    "gemma2": ("Gemma2", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
                              num_key_value_heads=1, head_dim=20, max_position_embeddings=256, sliding_window=6,
                              query_pre_attn_scalar=12, attn_logit_softcapping=3.0, final_logit_softcapping=8.0,
                              rope_parameters=default_rope(1e4)), dict(dtype="bfloat16", legacy=True)),
    "gemma3": ("Gemma3", dict(vocab_size=96, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3,
                              num_key_value_heads=1, head_dim=12, max_position_embeddings=256, sliding_window=6,
                              query_pre_attn_scalar=10, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                              rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0},
                                               "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
               dict(dtype="bfloat16", config_class="Gemma3TextConfig")),
    # Layer 1 has no position embedding.
    "smollm3": ("SmolLM3", dict(vocab_size=96, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3,
                                num_key_value_heads=1, max_position_embeddings=256, no_rope_layers=[1, 0, 1],
                                rope_parameters=default_rope(1e4), tie_word_embeddings=True), dict(dtype="bfloat16", legacy=True)),
    "granite": ("Granite", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, max_position_embeddings=256, embedding_multiplier=6.0,
                                attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=4.0,
                                rope_parameters=default_rope(1e4), tie_word_embeddings=True), dict(dtype="bfloat16", legacy=True)),
    # Text models inside models that see images; the goldens are of text alone.
    "llama4-images": ("Llama4", dict(vocab_size=96, hidden_size=32, intermediate_size=12, intermediate_size_mlp=36, num_hidden_layers=2,
                                     num_attention_heads=4, num_key_value_heads=1, head_dim=8, max_position_embeddings=256,
                                     num_local_experts=3, num_experts_per_tok=1, interleave_moe_layer_step=2, no_rope_layer_interval=2,
                                     attention_chunk_size=6, use_qk_norm=False, rope_parameters=default_rope(1e4)),
                      dict(dtype="bfloat16", config_class="Llama4TextConfig", images=dict(
                          hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vision_output_dim=8, image_size=28,
                          patch_size=14, projector_input_dim=8, projector_output_dim=8))),
    "gemma3-images": ("Gemma3", dict(vocab_size=96, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3,
                                     num_key_value_heads=1, head_dim=12, max_position_embeddings=256, sliding_window=6,
                                     query_pre_attn_scalar=10, layer_types=["sliding_attention", "full_attention"],
                                     rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                                                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
                      dict(dtype="bfloat16", config_class="Gemma3TextConfig", images=dict(
                          hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=28, patch_size=14))),
    "mistral3-images": ("Mistral3", dict(vocab_size=96, hidden_size=32, intermediate_size=42, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, head_dim=12, max_position_embeddings=256, sliding_window=None,
                                         rope_parameters=default_rope(1e4), tie_word_embeddings=False),
                        dict(dtype="bfloat16", config_class="MistralConfig", images=dict(
                            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=28, patch_size=14,
                            head_dim=4))),
    "olmo2": ("Olmo2", dict(vocab_size=96, hidden_size=30, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3,
                            num_key_value_heads=1, max_position_embeddings=256, rope_parameters=default_rope(5e5),
                            tie_word_embeddings=False), dict(dtype="bfloat16")),
    "stablelm": ("StableLm", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
                                  num_key_value_heads=1, max_position_embeddings=256, use_qkv_bias=True,
                                  partial_rotary_factor=0.25, rope_parameters=default_rope(1e4, partial_rotary_factor=0.25),
                                  tie_word_embeddings=False), dict(dtype="bfloat16")),
    # The other form (StableLM 2 12B): a norm of its own for each head of q and k, attention and feed-forward side by side.
    "stablelm-parallel": ("StableLm", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
                                           num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                                           qk_layernorm=True, use_parallel_residual=True, partial_rotary_factor=0.5,
                                           rope_parameters=default_rope(1e4, partial_rotary_factor=0.5),
                                           tie_word_embeddings=False), dict(dtype="bfloat16")),
    "starcoder2": ("Starcoder2", dict(vocab_size=96, hidden_size=28, intermediate_size=50, num_hidden_layers=2,
                                      num_attention_heads=7, num_key_value_heads=1, max_position_embeddings=256,
                                      sliding_window=7, rope_parameters=default_rope(1e5), tie_word_embeddings=True),
                   dict(dtype="bfloat16")),
    "cohere": ("Cohere", dict(vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
                              num_key_value_heads=2, max_position_embeddings=256, use_qk_norm=True, logit_scale=0.25,
                              rope_parameters=default_rope(1e4)), dict(dtype="bfloat16")),
    # Sliding layers are rotated, the full one is not.
    "cohere2": ("Cohere2", dict(vocab_size=96, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3,
                                num_key_value_heads=1, max_position_embeddings=256, sliding_window=6, logit_scale=0.5,
                                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                rope_parameters=default_rope(1e4)), dict(dtype="bfloat16")),
}


def init_weights(model, config, generator):
    """Random weights under which every part of the model matters."""
    d_model = config.hidden_size
    gemma = config.model_type.startswith("gemma")  # its norms multiply with 1 + weight
    spread = 3.0 / getattr(config, "logit_scale", 1.0) * getattr(config, "logits_scaling", 1.0)  # of the logits before they are scaled
    if config.tie_word_embeddings:  # the last norm must lift what embeddings of 0.02 give
        spread /= 0.02 * math.sqrt(d_model)
    seen = set()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if id(p) in seen:
                continue
            seen.add(id(p))
            normal = lambda std, mean=0.0: p.copy_((torch.randn(p.shape, generator=generator, dtype=torch.float64) * std + mean))
            if "embed_tokens" in name:
                normal(0.02)
            elif "lm_head" in name:
                normal(spread / math.sqrt(d_model))
            elif name.endswith("bias"):
                normal(0.3)
            elif name.endswith("sinks"):
                normal(1.0, 1.0)
            elif name in ("model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"):
                mean = spread if config.tie_word_embeddings else 1.0
                normal(0.2 * mean, mean - 1.0 if gemma else mean)
            elif "norm" in name:
                normal(0.2, 0.0 if gemma else 1.0)
            elif "q_proj" in name or "k_proj" in name or "qkv_proj" in name:  # scores with a standard deviation of about 2
                normal(1.4 / math.sqrt(d_model))
            elif config.model_type in ("gpt_oss", "llama4_text") and "experts" in name:  # stored as [experts, inputs, outputs]
                normal(1.0 / math.sqrt(p.shape[-2]))
            else:
                normal(1.0 / math.sqrt(p.shape[-1]))


def router_margin(model):
    """Smallest gap between the last expert taken and the first one not, seen since the hooks were set; inf without experts."""
    return min(getattr(model, "_router_margins", []) or [math.inf])


def hook_routers(model, config):
    ffn = getattr(config, "ffn_config", None)  # DBRX
    top_k = ffn.moe_top_k if ffn else getattr(config, "num_experts_per_tok", None)
    n_experts = ffn.moe_num_experts if ffn else getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    model._router_margins = []

    def hook(module, _inputs, output):
        if module.__class__.__name__ == "Llama4Router":
            output = output[1]  # the logits; what comes first is masked
        logits = next(x for x in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(x) and x.dim() == 2 and x.shape[1] == n_experts)
        ranked = torch.sort(logits.reshape(-1, logits.shape[-1]), dim=-1, descending=True).values
        model._router_margins.append((ranked[:, top_k - 1] - ranked[:, top_k]).min().item())

    for _name, module in model.named_modules():
        if module.__class__.__name__.endswith(("Router", "Gating")):
            module.register_forward_hook(hook)


def greedy(model, prompt, n):
    ids = prompt.clone()
    margin = math.inf
    for _ in range(n):
        top = torch.topk(model(ids, use_cache=False).logits[:, -1], 2, dim=-1)
        margin = min(margin, (top.values[:, 0] - top.values[:, 1]).min().item())
        ids = torch.cat([ids, top.indices[:, :1]], dim=1)
    return ids[:, prompt.shape[1]:], margin


def legacy_config(config):
    """config.json as Transformers 4 wrote it."""
    rope = config.pop("rope_parameters", None) or {}
    config["rope_theta"] = rope.pop("rope_theta", 10000.0)
    config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.44.0"
    return config


def save(model, config, directory, how):
    shutil.rmtree(directory, ignore_errors=True)
    dtype = getattr(torch, how["dtype"])
    model.config.dtype = how["dtype"]
    model.to(dtype)
    options = {"max_shard_size": how["shards"]} if how.get("shards") else {}
    model.save_pretrained(directory, **options)
    path = os.path.join(directory, "config.json")
    with open(path) as f:
        saved = json.load(f)
    if how.get("legacy"):
        saved = legacy_config(saved)
    write_json(path, saved)


def build(name, out):
    family, arguments, how = MODELS[name]
    config_class = getattr(transformers, how.get("config_class", family + "Config"))
    model_class = getattr(transformers, family + ("ForConditionalGeneration" if "images" in how else "ForCausalLM"))
    arguments = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, **arguments}
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        config = config_class(**arguments)
        if "images" in how:
            outer = getattr(transformers, family + "Config")
            vision = {"Gemma3": "SiglipVisionConfig", "Llama4": "Llama4VisionConfig", "Mistral3": "PixtralVisionConfig"}[family]
            config = outer(text_config=config, vision_config=getattr(transformers, vision)(**how["images"]),
                           tie_word_embeddings=config.tie_word_embeddings)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model = model_class(config).eval()
        config = config.get_text_config()
        init_weights(model, config, generator)
        with torch.no_grad():  # the parameters alone: the rotary frequencies are a buffer that must not be rounded
            for p in model.parameters():
                p.copy_(p.to(getattr(torch, how["dtype"])))
        model.to(torch.float64)
        hook_routers(model, config)
        prompt = torch.randint(3, config.vocab_size, (2, how.get("prompt", PROMPT)), generator=generator)
        with torch.no_grad():
            logits = model(prompt, use_cache=False).logits
            ids, margin = greedy(model, prompt, GREEDY)
        if margin >= MIN_MARGIN and router_margin(model) >= MIN_ROUTER_MARGIN and not (ids == 2).any() and \
                min(len(set(row.tolist())) for row in ids) >= GREEDY // 2:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear margins")
    directory = os.path.join(out, name)
    save(model, config, directory, how)
    save_file({"input_ids": prompt, "logits": logits.to(torch.float32).contiguous(), "greedy_ids": ids.contiguous()},
              os.path.join(directory, "reference.safetensors"), metadata={"seed": str(seed), "transformers": transformers.__version__})
    for file in os.listdir(directory):
        os.chmod(os.path.join(directory, file), 0o644)
    size = sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))
    print(f"{name}: seed {seed}, std {logits.std().item():.2f}, margin {margin:.3f}, router {router_margin(model):.4f}, {size} bytes, "
          f"distinct {len(set(ids.flatten().tolist()))}")


# --- a complete model directory that can chat ---------------------------------------------------------------------------

CHAT_TEXT = """The engine reads a model and answers. You ask, it tells you what it knows; then you ask again.
A short word is a token, and a long word is a few of them. There is no need to hurry: the answer will come when it is ready.
Hello! How are you today? I am fine, thank you. What is the weather like where you are? It is warm and the sun is out.
Tell me a story about the sea. The ship left the harbour in the morning, and the wind was with it all the way to the island.
Numbers are words too: 1, 2, 3, 10, 100 and 2024. Do not forget the comma, the colon: and the question mark?
"""

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}{{- raise_exception('unknown role ' + message['role']) }}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")

CHAT_CONVERSATIONS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "What is the weather like?"}],
    [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "About the sea."}],
    [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "2024?"}],
]


def chat_tokenizer(directory):
    """A byte-level BPE of 300 entries; the three special ones come last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=297, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CHAT_TEXT.splitlines(), trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    os.makedirs(directory, exist_ok=True)
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    added = {str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                             "single_word": False, "special": True}
             for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
    write_json(os.path.join(directory, "tokenizer_config.json"), {
        "added_tokens_decoder": added, "bos_token": None, "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "model_max_length": 512,
        "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None})
    write_json(os.path.join(directory, "generation_config.json"), {
        "do_sample": True, "eos_token_id": [299, 297], "pad_token_id": 297, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
        "transformers_version": transformers.__version__})
    return transformers.AutoTokenizer.from_pretrained(directory)


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=1, sort_keys=True)
        f.write("\n")


def chat_answer(model, prompt, n, eos):
    """Greedy ids up to and with eos; None as soon as a step is too close or the text goes round in circles."""
    ids, cache, out = prompt, transformers.DynamicCache(config=model.config), []
    while len(out) < n and eos not in out:
        top = torch.topk(model(ids, past_key_values=cache, use_cache=True).logits[0, -1], 2)
        out.append(top.indices[0].item())
        if top.values[0] - top.values[1] < MIN_MARGIN or len(set(out)) < len(out) // 4:
            return None
        ids = top.indices[None, :1]
    return out


def build_chat(out, new_tokens=40):
    directory = os.path.join(out, "tiny-chat")
    shutil.rmtree(directory, ignore_errors=True)
    tokenizer = chat_tokenizer(directory)
    printable = [i for i in range(297) if tokenizer.decode([i]).isascii() and tokenizer.decode([i]).isprintable()]
    prompts = [torch.tensor(tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"])[None]
               for c in CHAT_CONVERSATIONS]
    arguments = dict(vocab_size=300, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=512, rope_parameters=default_rope(), bos_token_id=None,
                     eos_token_id=299, pad_token_id=297, tie_word_embeddings=False)
    for seed in range(20000):
        generator = torch.Generator().manual_seed(seed)
        config = transformers.LlamaConfig(**arguments)
        config._attn_implementation = "eager"
        model = transformers.LlamaForCausalLM(config).eval()
        init_weights(model, config, generator)
        with torch.no_grad():
            keep = torch.zeros(300)  # only printable text and <|im_end|> are ever likely
            keep[printable + [299]] = 1
            model.lm_head.weight.mul_(keep[:, None])
            for p in model.parameters():
                p.copy_(p.to(torch.bfloat16))
            model.to(torch.float64)
            answers = []
            while len(answers) < len(prompts) and None not in answers:
                answers.append(chat_answer(model, prompts[len(answers)], new_tokens, 299))
        if None in answers:
            continue
        stopped = [299 in a for a in answers]  # both endings are wanted
        if any(stopped) and not all(stopped) and min(len(a) for a in answers) >= 5:
            break
    else:
        raise SystemExit("tiny-chat: no seed gives what is wanted")
    cases = []
    for conversation, prompt, ids in zip(CHAT_CONVERSATIONS, prompts, answers):
        cases.append({"messages": conversation, "prompt": tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True),
                      "prompt_ids": prompt[0].tolist(), "token_ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True),
                      "finish_reason": "stop" if 299 in ids else "length"})
    kept = {f: open(os.path.join(directory, f)).read() for f in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]}
    save(model, config, directory, dict(dtype="bfloat16"))
    for file, text in kept.items():
        with open(os.path.join(directory, file), "w") as f:
            f.write(text)
    write_json(os.path.join(directory, "chat_cases.json"), {"max_new_tokens": new_tokens, "cases": cases})
    for file in os.listdir(directory):
        os.chmod(os.path.join(directory, file), 0o644)
    print(f"tiny-chat: seed {seed}")
    for case in cases:
        print(repr(case["text"]))


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = sys.argv[1]
    for name in sys.argv[2:] or [*MODELS, "tiny-chat"]:
        build_chat(out) if name == "tiny-chat" else build(name, out)


if __name__ == "__main__":
    main()
