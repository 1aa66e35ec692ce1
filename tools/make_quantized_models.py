#!/usr/bin/env python3
"""Makes tests/data/quantized and tests/data/adapters: tiny checkpoints in the quantized formats of other programs, and LoRA adapters.

Author-time only; neither build nor tests need it. Wants Transformers >= 5.12 and PyTorch:

    make_quantized_models.py OUT MODELS [NAME...]      MODELS: tests/data/models, which the adapters are for

Weights are rounded to the nearest value of the format and packed as its specification says (no library that reads or writes these
formats takes part). What they then stand for is computed from the integers, before they are packed, and put into a plain model:
OUT/quantized/NAME/reference.safetensors has its logits by Transformers in float64, and the first rows of two of its matrices:
    input_ids I64 [1, T], logits F32 [1, T, V], k_proj F32 [8, n_in], down_proj F32 [8, n_in]
OUT/adapters/NAME holds adapter_config.json and adapter_model.safetensors as PEFT writes them, and the logits of the merged model.
"""

import json
import math
import os
import shutil
import sys
import types

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import load_file, save_file

from make_tiny_models import default_rope, init_weights, write_json

VOCAB, D, FF, HEADS, KV = 64, 64, 96, 4, 2
PROMPT = 12


def base_model(seed):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=FF, num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV,
        max_position_embeddings=128, rope_parameters=default_rope(), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=None)
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).eval()
    init_weights(model, config, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.float16))
    return model, config


# --- rounding to a grid ---------------------------------------------------------------------------------------------------------------


def group_rounding(w, bits, group, symmetric):
    """q [out, in] unsigned, zeros [out, groups], scales [out, groups] (float16), group of each column."""
    n_out, n_in = w.shape
    group = n_in if group < 0 else group
    g = w.float().reshape(n_out, n_in // group, group)
    top = 2**bits - 1
    if symmetric:
        scales = (2 * g.abs().amax(-1) / top).half()
        zeros = torch.full_like(scales, (top + 1) // 2).int()
    else:
        low, high = g.amin(-1).clamp(max=0), g.amax(-1).clamp(min=0)
        scales = ((high - low) / top).half()
        zeros = torch.round(-low / scales.float()).clamp(1, top).int()  # 0 cannot be stored as zero - 1
    q = (torch.round(g / scales.float()[..., None]) + zeros[..., None]).clamp(0, top).int().reshape(n_out, n_in)
    return q, zeros, scales, torch.arange(n_in) // group


def pack_bits(values, bits):
    """[n, m] -> I32 [n * bits / 32, m]: each column a stream of bits, the lowest first."""
    n, m = values.shape
    words = torch.zeros(n * bits // 32, m, dtype=torch.int64)
    for i in range(n):
        v, bit = values[i].to(torch.int64), i * bits
        words[bit // 32] |= (v << bit % 32) & 0xFFFFFFFF
        if bit % 32 + bits > 32:
            words[bit // 32 + 1] |= v >> (32 - bit % 32)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def gptq(bits, group, symmetric, v2=False, act_order=False):
    def pack(name, w, out):
        if act_order:  # columns by some measure of importance, in groups of that order
            order = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(len(name)))
            q, zeros, scales, _ = group_rounding(w[:, order], bits, group, symmetric)
            back = torch.argsort(order)
            q, g_idx = q[:, back], back // group
        else:
            q, zeros, scales, g_idx = group_rounding(w, bits, group, symmetric)
        module = name.removesuffix(".weight")
        out[module + ".qweight"] = pack_bits(q.T, bits)
        out[module + ".qzeros"] = pack_bits((zeros if v2 else zeros - 1), bits).T.contiguous()
        out[module + ".scales"] = scales.T.contiguous()
        out[module + ".g_idx"] = g_idx.int()
        return (q - zeros[:, g_idx]).float() * scales.float()[:, g_idx]

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": act_order, "damp_percent": 0.01,
              "static_groups": False, "true_sequential": True, "checkpoint_format": "gptq_v2" if v2 else "gptq",
              "meta": {"quantizer": ["gptqmodel:2.0.0"]}, "lm_head": False, "pack_dtype": "int32"}
    return config, pack


def awq(group):
    def pack_rows(values):  # [n, m] -> [n, m / 8]
        words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int64)
        for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
            words |= values[:, column::8].to(torch.int64) << (4 * place)
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    def pack(name, w, out):
        q, zeros, scales, g = group_rounding(w, 4, group, False)
        module = name.removesuffix(".weight")
        out[module + ".qweight"] = pack_rows(q.T)
        out[module + ".qzeros"] = pack_rows(zeros.T)
        out[module + ".scales"] = scales.T.contiguous()
        return (q - zeros[:, g]).float() * scales.float()[:, g]

    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True, "modules_to_not_convert": None}, pack


# --- bitsandbytes ---------------------------------------------------------------------------------------------------------------------

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [0.0, 0.0052083333, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25, -0.0, -0.0052083333, -0.6666667, -1.0, -0.3333333, -0.5,
       -0.1666667, -0.25]


def dynamic_map():
    """256 values, denser towards zero: what double quantization writes the absmax with. Any map would do; the file holds it."""
    half = torch.cat([torch.linspace(0, 1, 2**i + 1)[1:] * 10.0 ** (i - 6) for i in range(7)])
    return torch.sort(torch.cat([half, -half, torch.tensor([0.0, 0.5])])).values.float()[:256]


def bnb_4bit(kind, double):
    code = torch.tensor(NF4 if kind == "nf4" else FP4)

    def pack(name, w, out):
        block = 64
        blocks = w.float().reshape(-1, block)
        absmax = blocks.abs().amax(1)
        state = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": list(w.shape)}
        if double:
            nested_block, offset, table = 256, absmax.mean().item(), dynamic_map()
            centred = (absmax - offset).reshape(-1)
            n_nested = (len(centred) + nested_block - 1) // nested_block
            nested = torch.stack([centred[i * nested_block:(i + 1) * nested_block].abs().max() for i in range(n_nested)])
            of = torch.arange(len(centred)) // nested_block
            index = (centred / nested[of]).sub(table[:, None]).abs().argmin(0)
            absmax = table[index] * nested[of] + torch.tensor(offset)
            out[name + ".absmax"] = index.to(torch.uint8)
            out[name + ".nested_absmax"] = nested
            out[name + ".nested_quant_map"] = table
            state |= {"nested_blocksize": nested_block, "nested_dtype": "float32", "nested_offset": offset}
        else:
            out[name + ".absmax"] = absmax
        q = (blocks / absmax[:, None])[..., None].sub(code).abs().argmin(-1)
        flat = q.reshape(-1).to(torch.uint8)
        out[name] = ((flat[0::2] << 4) | flat[1::2])[:, None]
        out[name + ".quant_map"] = code.clone()
        out[name + f".quant_state.bitsandbytes__{kind}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return (code[q] * absmax[:, None]).reshape(w.shape)

    return {"quant_method": "bitsandbytes", "_load_in_4bit": True, "_load_in_8bit": False, "load_in_4bit": True, "load_in_8bit": False,
            "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": kind,
            "bnb_4bit_use_double_quant": double, "llm_int8_threshold": 6.0, "llm_int8_skip_modules": None,
            "llm_int8_has_fp16_weight": False, "llm_int8_enable_fp32_cpu_offload": False}, pack


def bnb_int8():
    def pack(name, w, out):
        scb = w.float().abs().amax(1)
        q = torch.round(w.float() * (127 / scb[:, None])).to(torch.int8)
        out[name] = q
        out[name.removesuffix(".weight") + ".SCB"] = scb
        out[name.removesuffix(".weight") + ".weight_format"] = torch.tensor(0, dtype=torch.uint8)
        return q.float() * (scb / 127)[:, None]

    return {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True, "llm_int8_threshold": 6.0}, pack


# --- 8 bits a number, with scales of many shapes --------------------------------------------------------------------------------------


def scaled(scale_name, block, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32, shape=None, extra=()):
    """block: rows and columns of a scale, 0: all. shape: how the scales are stored where that is not [row blocks, column blocks]."""

    def pack(name, w, out):
        rows, cols = block[0] or w.shape[0], block[1] or w.shape[1]
        top = 448.0 if dtype == torch.float8_e4m3fn else 127.0
        of_row, of_col = torch.arange(w.shape[0]) // rows, torch.arange(w.shape[1]) // cols
        n = (of_row[-1].item() + 1, of_col[-1].item() + 1)
        scales = torch.zeros(n)
        for i in range(n[0]):
            for j in range(n[1]):
                scales[i, j] = w[i * rows:(i + 1) * rows, j * cols:(j + 1) * cols].float().abs().max() / top
        scales = scales.to(scale_dtype)
        full = scales.float()[of_row][:, of_col]
        q = (w.float() / full).clamp(-top, top)
        q = q.to(dtype) if dtype.is_floating_point else torch.round(q).to(dtype)
        out[name] = q
        out[name + scale_name] = scales.reshape(shape) if shape is not None else scales
        for key in extra:
            out[name.removesuffix("weight") + key] = torch.tensor(0.5)
        return q.float() * full

    return pack


def ct_integers(bits, group, packed, symmetric=True, act_order=False, scale_dtype=torch.float16):
    """group 0: a scale for each row. Ranges as observers find them: symmetric ones end at -2^(bits - 1) on one side."""

    def words(values):  # [n, m] signed -> I32 [n, ceil(m * bits / 32)]
        per_word = 32 // bits
        unsigned = torch.nn.functional.pad(values.to(torch.int64) + 2 ** (bits - 1), (0, -values.shape[1] % per_word))
        out = sum(unsigned[:, i::per_word] << (bits * i) for i in range(per_word))
        return torch.where(out >= 2**31, out - 2**32, out).to(torch.int32)

    def pack(name, w, out):
        n_out, n_in = w.shape
        size = group or n_in
        order = torch.randperm(n_in, generator=torch.Generator().manual_seed(len(name))) if act_order else torch.arange(n_in)
        g = w.float()[:, order].reshape(n_out, n_in // size, size)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if symmetric:
            scales = (g.abs().amax(-1) / ((high - low) / 2)).to(scale_dtype)
            zeros = torch.zeros(scales.shape, dtype=torch.int8)
        else:
            least, most = g.amin(-1).clamp(max=0), g.amax(-1).clamp(min=0)
            scales = ((most - least) / (high - low)).to(scale_dtype)
            zeros = (low - torch.round(least / scales.float())).clamp(low, high).to(torch.int8)
        q = (torch.round(g / scales.float()[..., None]) + zeros[..., None]).clamp(low, high).reshape(n_out, n_in)[:, torch.argsort(order)].to(torch.int8)
        g_idx = (torch.argsort(order) // size).int()
        if packed:
            out[name + "_packed"] = words(q)
            out[name + "_shape"] = torch.tensor([n_out, n_in])
        else:
            out[name] = q
        out[name + "_scale"] = scales
        if not symmetric:
            out[name + "_zero_point"] = words(zeros.T).T.contiguous() if packed else zeros
        if act_order:
            out[name + "_g_idx"] = g_idx
        return (q.int() - zeros.int()[:, g_idx]).float() * scales.float()[:, g_idx]

    weights = dict(num_bits=bits, symmetric=symmetric, strategy="group" if group else "channel", group_size=group or None,
                   actorder="group" if act_order else None)
    config = compressed("pack-quantized" if packed else "int-quantized", "int", **weights)
    if packed:
        config["config_groups"]["group_0"]["input_activations"] = None
    return config, pack


def compressed(format, kind, strategy, **more):
    weights = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy, "dynamic": False, "observer": "minmax", "group_size": None,
               "block_structure": None, "actorder": None, "observer_kwargs": {}, **more}
    group = {"targets": ["Linear"], "weights": weights, "output_activations": None,
             "input_activations": {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}}
    return {"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed", "ignore": ["lm_head"],
            "kv_cache_scheme": None, "global_compression_ratio": 1.5, "config_groups": {"group_0": group}}


FORMATS = {
    "gptq-4bit": lambda: gptq(4, 32, True),
    "gptq-4bit-asymmetric-v2": lambda: gptq(4, 32, False, v2=True),
    "gptq-4bit-act-order": lambda: gptq(4, 32, False, act_order=True),
    "gptq-8bit": lambda: gptq(8, -1, True),
    "gptq-8bit-asymmetric": lambda: gptq(8, 32, False),
    "gptq-3bit": lambda: gptq(3, 32, False),
    "gptq-2bit": lambda: gptq(2, 32, False),
    "gptq-4bit-group16": lambda: gptq(4, 16, True),
    "awq": lambda: awq(32),
    "bnb-nf4-double": lambda: bnb_4bit("nf4", True),
    "bnb-fp4": lambda: bnb_4bit("fp4", False),
    "bnb-int8": bnb_int8,
    "fp8-block": lambda: ({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [24, 32]},
                          scaled("_scale_inv", (24, 32))),
    "fp8-tensor": lambda: ({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
                           scaled("_scale", (0, 0), shape=(), extra=["input_scale"])),
    "fbgemm-fp8": lambda: ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
                           scaled("_scale", (1, 0))),
    "ct-float-channel": lambda: (compressed("float-quantized", "float", "channel"), scaled("_scale", (1, 0), scale_dtype=torch.bfloat16)),
    "ct-float-block": lambda: (compressed("float-quantized", "float", "block", block_structure=[32, 24]), scaled("_scale", (32, 24))),
    "ct-pack-int4": lambda: ct_integers(4, 32, True),
    "ct-pack-int4-asymmetric": lambda: ct_integers(4, 32, True, symmetric=False),
    "ct-pack-int4-act-order": lambda: ct_integers(4, 32, True, act_order=True),
    "ct-pack-int8-channel": lambda: ct_integers(8, 0, True, scale_dtype=torch.bfloat16),
    "ct-int8-channel": lambda: ct_integers(8, 0, False, scale_dtype=torch.bfloat16),
    "ct-int8-channel-asymmetric": lambda: ct_integers(8, 0, False, symmetric=False),
    "ct-naive-int8": lambda: (compressed("naive-quantized", "int", "tensor"),
                              scaled("_scale", (0, 0), dtype=torch.int8, scale_dtype=torch.bfloat16, shape=(1,))),
}


def reference(model, prompt):
    model.to(torch.float64)
    with torch.no_grad():
        return model(prompt, use_cache=False).logits.to(torch.float32).contiguous()


def build_quantized(name, out):
    quantization, pack = FORMATS[name]()
    model, config = base_model(7)
    tensors = {}
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "_proj" in key:
                p.copy_(pack(key, p.detach(), tensors))
            elif key != "lm_head.weight":
                tensors[key] = p.detach().half()
    prompt = torch.randint(3, VOCAB, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    layer = "model.layers.0."
    rows = {m: model.get_parameter(layer + path)[:8].detach().float().contiguous().clone()
            for m, path in [("k_proj", "self_attn.k_proj.weight"), ("down_proj", "mlp.down_proj.weight")]}
    directory = os.path.join(out, "quantized", name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    saved = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": D, "intermediate_size": FF,
             "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV, "max_position_embeddings": 128,
             "rms_norm_eps": config.rms_norm_eps, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1,
             "eos_token_id": 2, "torch_dtype": "float16", "quantization_config": quantization}
    write_json(os.path.join(directory, "config.json"), saved)
    logits = reference(model, prompt)
    save_file({"input_ids": prompt, "logits": logits, **rows}, os.path.join(directory, "reference.safetensors"))
    size = sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))
    print(f"{name}: std {logits.std().item():.2f}, {size} bytes")


# --- LoRA -----------------------------------------------------------------------------------------------------------------------------

ADAPTERS = {
    # name -> (base, target modules, further settings, rank of a module)
    "plain": ("llama-untied", ["q_proj", "v_proj", "down_proj"], dict(r=4, lora_alpha=8), lambda module: 4),
    # Ranks and alphas of single layers, scaled by the root of the rank; embedding and output too.
    "patterns": ("llama-untied", ["k_proj", "o_proj", "gate_proj", "lm_head", "embed_tokens"],
                 dict(r=3, lora_alpha=5, use_rslora=True, rank_pattern={"layers.1.self_attn.k_proj": 2, "o_proj": 5},
                      alpha_pattern={"layers.1.self_attn.k_proj": 7}),
                 lambda module: 2 if module.endswith("layers.1.self_attn.k_proj") else 5 if module.endswith("o_proj") else 3),
    # Experts that are modules of their own, as Transformers 4 has them and the checkpoint too.
    "experts": ("mixtral", ["q_proj", "w1", "w2", "w3"], dict(r=2, lora_alpha=6), lambda module: 2),
    "fused": ("phi3", ["qkv_proj", "gate_up_proj"], dict(r=2, lora_alpha=4), lambda module: 2),
}


def build_adapter(name, out, models):
    base, targets, settings, rank_of = ADAPTERS[name]
    more = {"experts_implementation": "eager"} if "w1" in targets else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(models, base), dtype=torch.float64, attn_implementation="eager", **more).eval()
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    with torch.no_grad():
        modules = list(model.named_modules())
        for i, layer in enumerate(model.model.layers if "w1" in targets else []):  # Transformers 5 stacks them
            stack = layer.mlp.experts
            for e in range(stack.num_experts):
                gate, up = stack.gate_up_proj[e].chunk(2)
                for part, weight in [("w1", gate), ("w3", up), ("w2", stack.down_proj[e])]:
                    modules.append((f"model.layers.{i}.block_sparse_moe.experts.{e}.{part}", types.SimpleNamespace(weight=weight)))
        for module, layer in modules:
            if module.split(".")[-1] not in targets:
                continue
            r = rank_of(module)
            alpha = 7 if settings.get("alpha_pattern") and module.endswith("layers.1.self_attn.k_proj") else settings["lora_alpha"]
            scale = alpha / (math.sqrt(r) if settings.get("use_rslora") else r)
            n_out, n_in = layer.weight.shape
            embedding = isinstance(layer, torch.nn.Embedding)
            if embedding:
                n_out, n_in = n_in, n_out  # PEFT: lora_embedding_A [r, vocabulary], lora_embedding_B [width, r]
            strength = 0.05 * layer.weight.std().item() * math.sqrt(n_in) if embedding else 0.3
            a = torch.randn(r, n_in, generator=generator) / math.sqrt(n_in)
            b = torch.randn(n_out, r, generator=generator) * strength
            prefix = "base_model.model." + module
            if embedding:
                tensors[prefix + ".lora_embedding_A"], tensors[prefix + ".lora_embedding_B"] = a, b
                layer.weight += (b.double() @ a.double()).T * scale
            else:
                tensors[prefix + ".lora_A.weight"], tensors[prefix + ".lora_B.weight"] = a, b
                layer.weight += (b.double() @ a.double()) * scale
    directory = os.path.join(out, "adapters", name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    save_file(tensors, os.path.join(directory, "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "target_modules": targets, "bias": "none",
              "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
              "lora_dropout": 0.05, "modules_to_save": None, "revision": None, "use_dora": False, "use_rslora": False, "rank_pattern": {},
              "alpha_pattern": {}, "megatron_config": None, "loftq_config": {}, **settings}
    write_json(os.path.join(directory, "adapter_config.json"), config)
    prompt = torch.randint(3, 90, (1, PROMPT), generator=generator)
    logits = reference(model, prompt)
    save_file({"input_ids": prompt, "logits": logits}, os.path.join(directory, "reference.safetensors"))
    print(f"{name}: std {logits.std().item():.2f}, {sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))} bytes")


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    out, models = sys.argv[1:3]
    for name in sys.argv[3:] or [*FORMATS, *ADAPTERS]:
        if name in FORMATS:
            build_quantized(name, out)
        else:
            build_adapter(name, out, models)


if __name__ == "__main__":
    main()
