#!/usr/bin/env python3
"""Makes tests/data/models: tiny random-weight checkpoints with the logits that genuine Transformers computes for them.

Author-time only; neither build nor tests need it. Wants Transformers >= 5.12, PyTorch and tokenizers:

    make_tiny_models.py OUT [NAME...]      all models, or only those named

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
            elif name == "model.norm.weight":
                mean = spread if config.tie_word_embeddings else 1.0
                normal(0.2 * mean, mean - 1.0 if gemma else mean)
            elif "norm" in name:
                normal(0.2, 0.0 if gemma else 1.0)
            elif "q_proj" in name or "k_proj" in name or "qkv_proj" in name:  # scores with a standard deviation of about 2
                normal(1.4 / math.sqrt(d_model))
            elif config.model_type == "gpt_oss" and "experts" in name:  # stored as [experts, inputs, outputs]
                normal(1.0 / math.sqrt(p.shape[-2]))
            else:
                normal(1.0 / math.sqrt(p.shape[-1]))


def router_margin(model):
    """Smallest gap between the last expert taken and the first one not, seen since the hooks were set; inf without experts."""
    return min(getattr(model, "_router_margins", []) or [math.inf])


def hook_routers(model, config):
    top_k = getattr(config, "num_experts_per_tok", None)
    model._router_margins = []

    n_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)

    def hook(_module, _inputs, output):
        logits = next(x for x in output if torch.is_tensor(x) and x.dim() == 2 and x.shape[1] == n_experts)
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
    with open(path, "w") as f:
        json.dump(saved, f, indent=1, sort_keys=True)
        f.write("\n")


def build(name, out):
    family, arguments, how = MODELS[name]
    config_class = getattr(transformers, how.get("config_class", family + "Config"))
    model_class = getattr(transformers, family + "ForCausalLM")
    arguments = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, **arguments}
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        config = config_class(**arguments)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model = model_class(config).eval()
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


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = sys.argv[1]
    for name in sys.argv[2:] or MODELS:
        build(name, out)


if __name__ == "__main__":
    main()
