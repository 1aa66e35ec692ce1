#!/usr/bin/env python3
"""Compares the engine with genuine Transformers on random models with unusual settings.

Author-time only. Wants Transformers >= 5.12 and PyTorch:

    compare_random_models.py ENGINE OUT [--count N] [--seed S] [--no-quantized] [FAMILY...]

Each instance draws a family's settings (odd head counts and widths, windows shorter than the prompt, every kind of rotary scaling, multipliers,
layouts of experts), random weights, and one of three layouts of config.json: as Transformers 5 writes it, as Transformers 4 did, or with the keys
left out that have their default value. Transformers loads what was written in float64 and computes the logits of 200 tokens; `engine logits` does
the same in float32, then in int8 and int4 (where only the size of the difference says something). Printed are the largest difference over the
logits' standard deviation, and for int8 and int4 the root mean square of the differences over it. Directories of failures stay in OUT.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import load_file, save_file

from make_tiny_models import hook_routers, init_weights, legacy_config, router_margin, write_json

LIMIT = 5e-4
N_TOKENS = 200


class Draw(random.Random):
    def heads(self, multiple=2):
        """hidden_size, heads, kv heads and head_dim, where hidden_size = heads * head_dim."""
        n_kv = self.choice([1, 1, 2, 3, 5])
        n_heads = n_kv * self.choice([1, 2, 3, 4, 5, 7]) if n_kv < 3 else n_kv * self.choice([1, 2])
        d_head = self.choice([6, 8, 10, 16, 20, 32, 48, 80, 96]) // multiple * multiple
        return dict(hidden_size=n_heads * d_head, num_attention_heads=n_heads, num_key_value_heads=n_kv), d_head

    def free_heads(self):
        """The same with a head_dim that is not hidden_size / heads."""
        sizes, d_head = self.heads()
        d_head = self.choice([8, 12, 34, 64, 80, 96])
        sizes["hidden_size"] = sizes["num_attention_heads"] * self.choice([5, 7, 12, 16, 18])
        return dict(sizes, head_dim=d_head), d_head

    def any_heads(self):
        return self.free_heads() if self.random() < 0.5 else self.heads()

    def common(self):
        return dict(vocab_size=self.choice([97, 101, 128, 211, 333]), intermediate_size=self.choice([33, 44, 100, 128, 172, 251]),
                    num_hidden_layers=self.choice([2, 3, 4, 5]), max_position_embeddings=self.choice([256, 512, 4096]),
                    tie_word_embeddings=self.random() < 0.5)

    def window(self):
        return self.choice([1, 5, 31, 64, 150, 1000])

    def layer_types(self, n):
        return [self.choice(["sliding_attention", "full_attention"]) for _ in range(n)]

    def rope(self, n_rot, positions, kinds=("default", "linear", "dynamic", "llama3", "yarn", "longrope")):
        kind, theta = self.choice(kinds), self.choice([100.0, 10000.0, 500000.0, 1e6])
        p = {"rope_type": kind, "rope_theta": theta}
        if kind in ("linear", "dynamic"):
            p["factor"] = self.choice([1.0, 2.5, 8.0])
        elif kind == "llama3":
            p.update(factor=self.choice([8.0, 32.0]), low_freq_factor=1.0, high_freq_factor=self.choice([2.0, 4.0]),
                     original_max_position_embeddings=self.choice([64, 128]))
        elif kind == "yarn":
            p.update(factor=self.choice([4.0, 2.5, 40.0]), original_max_position_embeddings=self.choice([32, 64, 128]))
            if self.random() < 0.4:
                p.update(beta_fast=16.0, beta_slow=2.0)
            if self.random() < 0.3:
                p["attention_factor"] = 1.2
            elif self.random() < 0.4:
                p.update(mscale=1.0, mscale_all_dim=0.7)
            if self.random() < 0.3:
                p["truncate"] = False
        elif kind == "longrope":
            p.update(short_factor=[1 + self.random() for _ in range(n_rot // 2)], long_factor=[1 + 9 * self.random() for _ in range(n_rot // 2)],
                     original_max_position_embeddings=self.choice([100, positions]))
            if self.random() < 0.3:
                p["factor"] = 4.0
            if self.random() < 0.3:
                p["attention_factor"] = 1.1
        return p

    def experts(self, n="num_local_experts"):
        n_experts = self.choice([2, 3, 5, 8, 17])
        return {n: n_experts, "num_experts_per_tok": self.randint(1, min(n_experts - 1, 4))}


# --- one function a family: (class prefix, arguments of its configuration) -----------------------------------------------------------


def llama(r):
    sizes, d = r.any_heads()
    c = r.common()
    return "Llama", dict(c, **sizes, attention_bias=r.random() < 0.5, mlp_bias=r.random() < 0.5, rms_norm_eps=r.choice([1e-5, 1e-6]),
                         hidden_act=r.choice(["silu", "silu", "gelu", "relu", "gelu_pytorch_tanh"]), rope_parameters=r.rope(d, c["max_position_embeddings"]))


def llama4(r):
    sizes, d = r.any_heads()
    sizes["head_dim"] = d
    c = r.common()
    n = c["num_hidden_layers"]
    more = r.choice([{}, {"no_rope_layers": [r.randint(0, 1) for _ in range(n)]}, {"no_rope_layer_interval": 2}])
    more.update(r.choice([{}, {"interleave_moe_layer_step": 2}, {"moe_layers": [0, n - 1]}]))
    if r.random() < 0.3:
        more["layer_types"] = [r.choice(["chunked_attention", "full_attention"]) for _ in range(n)]
    return "Llama4", dict(c, **sizes, **r.experts(), **more, intermediate_size_mlp=r.choice([33, 60, 172]), attention_chunk_size=r.choice([7, 16, 64, 150, 1000]),
                          use_qk_norm=r.random() < 0.6, attn_temperature_tuning=r.random() < 0.7, floor_scale=r.choice([8, 30, 8192]),
                          attn_scale=r.choice([0.1, 0.4]), attention_bias=r.random() < 0.3,
                          rope_parameters=r.rope(d, c["max_position_embeddings"], ("default", "llama3", "yarn", "linear")))


def mistral(r):
    sizes, d = r.any_heads()
    c = r.common()
    return "Mistral", dict(c, **sizes, sliding_window=r.choice([None, r.window()]), rope_parameters=r.rope(d, c["max_position_embeddings"]))


def mixtral(r):
    sizes, d = r.any_heads()
    c = r.common()
    sizes["head_dim"] = d  # Transformers' Mixtral cannot do without one where rope is dynamic or longrope
    return "Mixtral", dict(c, **sizes, **r.experts(), sliding_window=r.choice([None, r.window()]),
                           rope_parameters=r.rope(d, c["max_position_embeddings"]))


def qwen_window(r, n_layers, explicit=True):
    w = dict(use_sliding_window=r.random() < 0.6, sliding_window=r.window())
    if not explicit:
        return w
    w["max_window_layers"] = r.randint(0, n_layers)
    if w["use_sliding_window"] and r.random() < 0.4:
        w["layer_types"] = r.layer_types(n_layers)
    return w


def qwen2(r):
    sizes, d = r.any_heads()
    c = r.common()
    return "Qwen2", dict(c, **sizes, **qwen_window(r, c["num_hidden_layers"]), rope_parameters=r.rope(d, c["max_position_embeddings"]))


def qwen3(r):
    sizes, d = r.free_heads()
    c = r.common()
    return "Qwen3", dict(c, **sizes, **qwen_window(r, c["num_hidden_layers"]), attention_bias=r.random() < 0.4,
                         rope_parameters=r.rope(d, c["max_position_embeddings"]))


def sparse(r, n_layers):
    return dict(decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=r.choice([[], [0], [n_layers - 1]]), norm_topk_prob=r.random() < 0.5,
                moe_intermediate_size=r.choice([12, 33, 40, 100]))


def qwen2_moe(r):
    sizes, d = r.any_heads()
    c = r.common()
    n = c["num_hidden_layers"]
    return "Qwen2Moe", dict(c, **sizes, **r.experts("num_experts"), **sparse(r, n), **qwen_window(r, n), qkv_bias=r.random() < 0.6,
                            shared_expert_intermediate_size=r.choice([28, 45, 172]), rope_parameters=r.rope(d, c["max_position_embeddings"]))


def qwen3_moe(r):
    sizes, d = r.any_heads()
    c = r.common()
    n = c["num_hidden_layers"]
    return "Qwen3Moe", dict(c, **sizes, **r.experts("num_experts"), **sparse(r, n), **qwen_window(r, n, False),
                            attention_bias=r.random() < 0.4, rope_parameters=r.rope(d, c["max_position_embeddings"]))


def gpt_oss(r):
    sizes, d = r.free_heads()
    c = r.common()
    if r.random() < 0.4:
        c["layer_types"] = r.layer_types(c["num_hidden_layers"])
    return "GptOss", dict(c, **sizes, **r.experts(), sliding_window=r.window(), attention_bias=r.random() < 0.7,
                          rope_parameters=r.rope(d, c["max_position_embeddings"], ("yarn", "yarn", "linear")))


def dbrx(r):
    sizes, d = r.heads()
    c = r.common()
    e, theta = r.experts(), r.choice([10000.0, 500000.0])
    ffn = dict(hidden_size=sizes["hidden_size"], ffn_hidden_size=c["intermediate_size"], moe_num_experts=e["num_local_experts"],
               moe_top_k=e["num_experts_per_tok"], moe_normalize_expert_weights=r.choice([1.0, 1.0, None]),
               ffn_act_fn={"name": r.choice(["silu", "gelu"])})
    return "Dbrx", dict(d_model=sizes["hidden_size"], n_heads=sizes["num_attention_heads"], n_layers=c["num_hidden_layers"], max_seq_len=c["max_position_embeddings"],
                        vocab_size=c["vocab_size"], tie_word_embeddings=False, ffn_config=ffn,
                        attn_config=dict(clip_qkv=r.choice([0.8, 2.0, 8.0]), kv_n_heads=sizes["num_key_value_heads"], rope_theta=theta), rope_parameters={"rope_type": "default", "rope_theta": theta})


def phi3(r):
    sizes, d = r.heads(4)
    c = r.common()
    partial = r.choice([1.0, 0.5]) if d % 4 == 0 else 1.0
    rope = r.rope(int(d * partial), c["max_position_embeddings"], ("default", "longrope"))
    original = rope.pop("original_max_position_embeddings", c["max_position_embeddings"])
    rope.pop("factor", None)
    return "Phi3", dict(c, **sizes, sliding_window=r.choice([None, r.window()]), partial_rotary_factor=partial, original_max_position_embeddings=original,
                        rope_parameters=dict(rope, partial_rotary_factor=partial))


def gemma_sizes(r):
    while True:  # Transformers wants hidden_size to be a multiple of the heads here too
        sizes, d = r.free_heads()
        if sizes["hidden_size"] % sizes["num_attention_heads"] == 0:
            return sizes, d


def gemma(r, more):
    sizes, d = gemma_sizes(r)
    c = r.common()
    c.pop("tie_word_embeddings")
    if r.random() < 0.4:
        c["layer_types"] = r.layer_types(c["num_hidden_layers"])
    return dict(c, **sizes, sliding_window=r.window(), query_pre_attn_scalar=r.choice([7, 24, 144]), attention_bias=r.random() < 0.3,
                attn_logit_softcapping=r.choice([None, 3.0, 50.0]), final_logit_softcapping=r.choice([None, 8.0, 30.0]), **more(d, c))


def gemma2(r):
    return "Gemma2", gemma(r, lambda d, c: dict(rope_parameters=r.rope(d, c["max_position_embeddings"], ("default", "linear"))))


def gemma3(r):
    def rope(d, c):
        full = r.rope(d, c["max_position_embeddings"], ("default", "linear", "linear", "yarn"))
        return dict(rope_parameters={"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": r.choice([10000.0, 777.0])}})
    return "Gemma3", gemma(r, rope)


def smollm3(r):
    sizes, d = r.heads()
    c = r.common()
    n = c["num_hidden_layers"]
    more = r.choice([{}, {"no_rope_layers": [r.randint(0, 1) for _ in range(n)]}, {"no_rope_layer_interval": 2}])
    if r.random() < 0.5:
        more.update(use_sliding_window=True, sliding_window=r.window())
        if r.random() < 0.5:
            more["layer_types"] = r.layer_types(n)
    return "SmolLM3", dict(c, **sizes, **more, attention_bias=r.random() < 0.3, mlp_bias=r.random() < 0.3,
                           rope_parameters=r.rope(d, c["max_position_embeddings"]))


def granite(r):
    sizes, d = r.heads()
    c = r.common()
    return "Granite", dict(c, **sizes, embedding_multiplier=r.choice([1.0, 6.0]), attention_multiplier=r.choice([0.1, 0.3]),
                           residual_multiplier=r.choice([0.22, 1.0]), logits_scaling=r.choice([1.0, 4.0, 8]), attention_bias=r.random() < 0.3,
                           mlp_bias=r.random() < 0.3, rope_parameters=r.rope(d, c["max_position_embeddings"]))


def granite_moe(r):
    _, c = granite(r)
    c.pop("mlp_bias")
    return "GraniteMoe", dict(c, **r.experts())


def olmo2(r):
    sizes, d = r.heads()
    c = r.common()
    return "Olmo2", dict(c, **sizes, attention_bias=r.random() < 0.3, rope_parameters=r.rope(d, c["max_position_embeddings"]))


def stablelm(r):
    while True:
        sizes, d = r.heads()
        partial = r.choice([0.25, 0.5, 1.0])
        if int(d * partial) % 2 == 0 and int(d * partial) >= 2:
            break
    c = r.common()
    rope = r.rope(int(d * partial), c["max_position_embeddings"], ("default", "linear", "dynamic"))
    return "StableLm", dict(c, **sizes, use_qkv_bias=r.random() < 0.5, qk_layernorm=r.random() < 0.5, use_parallel_residual=r.random() < 0.5,
                            layer_norm_eps=r.choice([1e-5, 1e-6]), partial_rotary_factor=partial, rope_parameters=dict(rope, partial_rotary_factor=partial))


def starcoder2(r):
    sizes, d = r.heads()
    c = r.common()
    return "Starcoder2", dict(c, **sizes, use_bias=r.random() < 0.6, sliding_window=r.choice([None, r.window()]), norm_epsilon=r.choice([1e-5, 1e-6]),
                              hidden_act=r.choice(["gelu_pytorch_tanh", "gelu"]), rope_parameters=r.rope(d, c["max_position_embeddings"]))


def cohere(r):
    sizes, d = r.heads()
    c = r.common()
    return "Cohere", dict(c, **sizes, use_qk_norm=r.random() < 0.5, logit_scale=r.choice([0.0625, 0.25, 1.0]), attention_bias=r.random() < 0.3,
                          rope_parameters=r.rope(d, c["max_position_embeddings"]))


def cohere2(r):
    sizes, d = r.heads()
    c = r.common()
    if r.random() < 0.5:
        c["layer_types"] = r.layer_types(c["num_hidden_layers"])
    return "Cohere2", dict(c, **sizes, logit_scale=r.choice([0.0625, 0.5]), sliding_window=r.window(), attention_bias=r.random() < 0.3,
                           rope_parameters=r.rope(d, c["max_position_embeddings"]))


FAMILIES = {f.__name__: f for f in [llama, llama4, mistral, mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe, gpt_oss, dbrx, phi3, gemma2, gemma3, smollm3, granite,
                                    granite_moe, olmo2, stablelm, starcoder2, cohere, cohere2]}


def published_dbrx():
    """DBRX as it was published (x W1^T, and W2 from the left): Transformers 5 multiplies with the transposed matrices, which only fits where
    ffn_hidden_size and d_model are equal, and means another model than the published checkpoints even there."""
    from transformers.models.dbrx import modeling_dbrx as m

    def router_init(self, config):
        torch.nn.Module.__init__(self)
        self.hidden_size, self.moe_jitter_eps = config.hidden_size, None
        self.layer = torch.nn.Linear(config.hidden_size, config.moe_num_experts, bias=False)

    def expert(self, x, w1, v1, w2):
        return (self.activation_fn(x @ w1.T) * (x @ v1.T)) @ w2

    def experts(self, x, top_k_index, top_k_weights):
        flat, shape = x.reshape(-1, x.shape[-1]), (self.num_experts, self.ffn_hidden_size, self.hidden_size)
        w1, v1, w2 = (getattr(self.mlp, name).view(shape) for name in ("w1", "v1", "w2"))
        out = torch.zeros_like(flat)
        for e in range(self.num_experts):
            token, place = torch.where(top_k_index == e)
            if len(token):
                out.index_add_(0, token, self.mlp(flat[token], w1[e], v1[e], w2[e]) * top_k_weights[token, place, None])
        return out.view(x.shape)

    m.DbrxRouter.__init__, m.DbrxExpertGLU.forward, m.DbrxExperts.forward = router_init, expert, experts


def rewrite_config(path, layout, config_class):
    with open(path) as f:
        saved = json.load(f)
    if layout == "legacy":
        rope = saved.get("rope_parameters") or {}
        types = saved.get("layer_types")
        if "full_attention" in rope:  # Gemma 3
            local = rope["sliding_attention"]["rope_theta"]
            saved["rope_parameters"] = rope["full_attention"]
        if "rope_parameters" in saved:
            saved = legacy_config(saved)
            if "partial_rotary_factor" in (saved["rope_scaling"] or {}):
                saved["partial_rotary_factor"] = saved["rope_scaling"].pop("partial_rotary_factor")
            if saved["rope_scaling"] and saved["rope_scaling"]["rope_type"] in ("linear", "dynamic", "longrope"):
                saved["rope_scaling"]["type"] = saved["rope_scaling"].pop("rope_type")
        if "full_attention" in rope:
            saved["rope_local_base_freq"] = local
        if types and len(set(types)) > 1:
            saved["layer_types"] = types
    elif layout == "sparse":
        defaults = config_class()
        kept = ("architectures", "model_type", "dtype", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_experts", "num_experts_per_tok", "intermediate_size_mlp")  # the engine wants to be told the sizes of the model
        for key in [k for k in saved if k not in kept]:
            if hasattr(defaults, key) and getattr(defaults, key) == saved[key]:
                del saved[key]
    write_json(path, saved)


def rms(a, b):
    return ((a - b).pow(2).mean().sqrt() / b.std()).item()


def reference(directory, dtype):
    """Transformers' logits as a function of the prompt."""
    more = {"experts_implementation": "eager"} if any(kind in os.path.basename(directory) for kind in ("oss", "moe", "mixtral")) else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager", **more).eval()
    hook_routers(model, model.config)

    def run(prompt):
        with torch.no_grad():
            return model(prompt, use_cache=False).logits

    run.model = model
    return run


def build(name, seed, directory):
    """Writes a model and returns layout, prompt and logits, or what was wrong with the draw."""
    r = Draw(seed)
    prefix, arguments = FAMILIES[name](r)
    layout = r.choice(["new", "legacy", "sparse"])
    config_class = getattr(transformers, {"Gemma3": "Gemma3Text", "Llama4": "Llama4Text"}.get(prefix, prefix) + "Config")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = config_class(bos_token_id=1, eos_token_id=2, pad_token_id=None, **arguments)
    model = getattr(transformers, prefix + "ForCausalLM")(config).eval()
    init_weights(model, config, generator)
    shutil.rmtree(directory, ignore_errors=True)
    model.to(getattr(torch, r.choice(["bfloat16", "float32", "float16"])))
    model.config.dtype = next(model.parameters()).dtype
    model.save_pretrained(directory)
    rewrite_config(os.path.join(directory, "config.json"), layout, config_class)
    run = reference(directory, torch.float64)
    for _ in range(10):
        prompt = torch.randint(3, config.vocab_size, (1, N_TOKENS), generator=generator)
        run.model._router_margins.clear()
        logits = run(prompt)
        if router_margin(run.model) > 5e-5:
            return layout, prompt, logits
    return "routers too undecided"


def engine_logits(engine, directory, dtype):
    out = os.path.join(directory, "got.safetensors")
    p = subprocess.run([engine, "logits", directory, "--input", os.path.join(directory, "input.safetensors"), "--output", out, "--dtype", dtype,
                        "-t", "2", "-q"], capture_output=True, text=True)
    if p.returncode != 0:
        return p.stderr.strip()
    return load_file(out)["logits"].double()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("out")
    parser.add_argument("--count", type=int, default=5, help="instances of each family")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-quantized", action="store_true")
    parser.add_argument("families", nargs="*")
    a = parser.parse_args()
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    published_dbrx()
    n, failures, worst = 0, [], 0.0
    for name in a.families or FAMILIES:
        for i in range(a.count):
            seed = a.seed * 1000 + i
            directory = os.path.join(a.out, f"{name}-{seed}")
            try:
                built = build(name, seed, directory)
            except Exception as e:
                built = f"Transformers: {e}"
            if isinstance(built, str):
                print(f"{name}-{seed}: not drawn: {built}", flush=True)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            layout, prompt, logits = built
            save_file({"input_ids": prompt}, os.path.join(directory, "input.safetensors"))
            n += 1
            got = engine_logits(a.engine, directory, "auto")
            if isinstance(got, str):
                failures.append(f"{name}-{seed}")
                print(f"{name}-{seed} ({layout}): REFUSED {got}", flush=True)
                continue
            difference = ((got - logits).abs().max() / logits.std()).item()
            worst = max(worst, difference)
            line, bad = f"{name}-{seed} ({layout}): {difference:.1e}", not difference < LIMIT
            if bad:  # some draws magnify every rounding: what does Transformers lose in float32?
                other = reference(directory, torch.float32)(prompt).double()
                lost = ((other - logits).abs().max() / logits.std()).item()
                line += f" (Transformers in float32: {lost:.1e})"
                bad = not difference < 4 * lost
            if not a.no_quantized:
                for dtype, limit in (("int8", 0.5), ("int4", 1.2)):
                    got = engine_logits(a.engine, directory, dtype)
                    line += f", {dtype} {got if isinstance(got, str) else format(rms(got, logits), '.3f')}"
                    bad |= isinstance(got, str) or not rms(got, logits) < limit
            print(line + ("  <<<" if bad else ""), flush=True)
            if bad:
                failures.append(f"{name}-{seed}")
            else:
                shutil.rmtree(directory)
    print(f"{n} instances, {len(failures)} with something to look at {failures}, largest difference {worst:.1e} of the logits' standard deviation")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
