#!/usr/bin/env python3
"""Writes a random-weight mixture-of-experts model of a real checkpoint's shape, with fewer layers: as a Hugging Face directory, and as GGUF
files of the same values for llama.cpp, so that two engines can be timed on the same work. An author's tool, for speed and memory only.

  make_moe_model.py SHAPE OUT_DIR [--layers N] [--tokenizer DIR] [--gguf KIND=FILE]...

Needs numpy and, for GGUF, the module gguf. KIND is BF16, Q8_0 or Q4_0: what linear layers are stored as. Q4_0 has the output matrix as
Q6_K, as llama-quantize does (with values of its own). GPT-OSS keeps its experts in MXFP4 whatever KIND says. Every matrix is a stretch of
one pool of random numbers, so that gigabytes are made as fast as they are written."""
import argparse
import json
import os
import shutil
import struct

import numpy as np

SHAPES = {
    "qwen1.5-moe-a2.7b": dict(arch="qwen2moe", hidden=2048, layers=12, heads=16, kv=16, head=128, inter=5632, expert=1408, experts=60, used=4,
                              vocab=151936, theta=1e6, eps=1e-6, ctx=8192),
    "gpt-oss-20b": dict(arch="gpt-oss", hidden=2880, layers=12, heads=64, kv=8, head=64, inter=2880, expert=2880, experts=32, used=4, vocab=201088,
                        theta=150000.0, eps=1e-5, ctx=131072),
}
POOL = 1 << 25  # elements, a multiple of every block


def bf16(a):
    u = np.ascontiguousarray(a, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


class Pool:
    """Random numbers of variance 1 / n_cols, in every form that is asked for; rows of 32-element blocks."""

    def __init__(self, rng):
        self.base = rng.standard_normal(POOL, dtype=np.float32)
        self.nibbles = rng.integers(0, 256, (POOL // 32, 16), dtype=np.uint8)
        self.rng = rng
        self.forms = {}

    def form(self, kind, n_cols):
        key = kind, n_cols
        if key not in self.forms:
            x = self.base * np.float32(n_cols ** -0.5)
            if kind == "BF16":
                self.forms[key] = bf16(x).reshape(-1, 32).view(np.uint8)
            else:
                import gguf
                kinds = gguf.GGMLQuantizationType
                self.forms[key] = gguf.quants.quantize(x.reshape(-1, 32), getattr(kinds, kind)).view(np.uint8).reshape(POOL // 32, -1)
        return self.forms[key]

    def matrix(self, start, kind, n_rows, n_cols):
        """Bytes [n_rows, bytes of a row] from block `start` on, around the pool's end as often as it takes."""
        blocks = self.form(kind, n_cols)
        n = n_rows * n_cols // 32
        return np.take(blocks, (np.arange(n) + start) % len(blocks), axis=0).reshape(n_rows, -1)

    def mxfp4(self, start, n_rows, n_cols):
        """Nibbles as Hugging Face has them, element 2i in the low half of byte i, [n_rows, n_cols / 32, 16]."""
        n = n_rows * n_cols // 32
        return np.take(self.nibbles, (np.arange(n) + start) % len(self.nibbles), axis=0).reshape(n_rows, -1, 16)


class Matrix:
    def __init__(self, n_rows, n_cols, start):
        self.n_rows, self.n_cols, self.start = n_rows, n_cols, start


class Vector:
    def __init__(self, values):
        self.values = values.astype(np.float32)


def mxfp4_scale(n_cols):
    return 127 - 2 - round(np.log2(n_cols) / 2)


def gguf_mxfp4(nibbles, n_cols):
    """Element j low and j + 16 high in byte j, behind the scale."""
    low, high = nibbles & 15, nibbles >> 4
    elements = np.stack([low, high], axis=-1).reshape(*nibbles.shape[:-1], 32)
    packed = elements[..., :16] | elements[..., 16:] << 4
    scale = np.full((*packed.shape[:-1], 1), mxfp4_scale(n_cols), dtype=np.uint8)
    return np.concatenate([scale, packed], axis=-1).reshape(nibbles.shape[0], -1)


class Maker:
    def __init__(self, shape, n_layers):
        self.s = dict(SHAPES[shape], layers=n_layers or SHAPES[shape]["layers"])
        self.rng = np.random.default_rng(7)
        self.pool = Pool(self.rng)
        self.tensors = []  # (Hugging Face name, GGUF name, what)

    def matrix(self, hf, gg, n_rows, n_cols):
        self.tensors.append((hf, gg, Matrix(n_rows, n_cols, int(self.rng.integers(POOL // 32)))))

    def vector(self, hf, gg, n, mean=0.0, spread=0.1):
        self.tensors.append((hf, gg, Vector(mean + spread * self.rng.standard_normal(n, dtype=np.float32))))

    def plan(self):
        s = self.s
        oss = s["arch"] == "gpt-oss"
        d, e, width = s["hidden"], s["experts"], s["expert"]
        self.matrix("model.embed_tokens.weight", "token_embd.weight", s["vocab"], d)
        for i in range(s["layers"]):
            p, b = f"model.layers.{i}.", f"blk.{i}."
            self.vector(p + "input_layernorm.weight", b + "attn_norm.weight", d, 1)
            for h, n in (("q", s["heads"]), ("k", s["kv"]), ("v", s["kv"])):
                self.matrix(p + f"self_attn.{h}_proj.weight", b + f"attn_{h}.weight", n * s["head"], d)
                self.vector(p + f"self_attn.{h}_proj.bias", b + f"attn_{h}.bias", n * s["head"])
            self.matrix(p + "self_attn.o_proj.weight", b + "attn_output.weight", d, s["heads"] * s["head"])
            if oss:
                self.vector(p + "self_attn.o_proj.bias", b + "attn_output.bias", d)
                self.vector(p + "self_attn.sinks", b + "attn_sinks.weight", s["heads"])
            self.vector(p + "post_attention_layernorm.weight", b + ("post_attention_norm.weight" if oss else "ffn_norm.weight"), d, 1)
            if oss:
                self.matrix(p + "mlp.router.weight", b + "ffn_gate_inp.weight", e, d)
                self.vector(p + "mlp.router.bias", b + "ffn_gate_inp.bias", e)
                for what in ("gate", "up", "down"):
                    self.tensors.append((p + "mlp.experts." + what, b + f"ffn_{what}_exps", "mxfp4"))
                continue
            self.matrix(p + "mlp.gate.weight", b + "ffn_gate_inp.weight", e, d)
            self.vector(p + "mlp.shared_expert_gate.weight", b + "ffn_gate_inp_shexp.weight", d, 0, d ** -0.5)
            for what, n, m in (("gate", width, d), ("up", width, d), ("down", d, width)):
                self.matrix(p + f"mlp.experts.*.{what}_proj.weight", b + f"ffn_{what}_exps.weight", e * n, m)
            for what, n, m in (("gate", s["inter"], d), ("up", s["inter"], d), ("down", d, s["inter"])):
                self.matrix(p + f"mlp.shared_expert.{what}_proj.weight", b + f"ffn_{what}_shexp.weight", n, m)
        self.vector("model.norm.weight", "output_norm.weight", d, 1)
        self.matrix("lm_head.weight", "output.weight", s["vocab"], d)

    # --- Hugging Face ---------------------------------------------------------------------------------------------------
    def expert_stack(self, name, n_rows, n_cols, seed):
        """The nibbles [experts * n_rows, blocks, 16] of one projection."""
        start = (hash_of(name) + seed) % (POOL // 32)
        return self.pool.mxfp4(start, self.s["experts"] * n_rows, n_cols)

    def hf_tensors(self):
        """(name, dtype, shape, function that gives the bytes)"""
        s = self.s
        e, width, d = s["experts"], s["expert"], s["hidden"]
        for hf, _, t in self.tensors:
            if isinstance(t, Vector):
                shape = [1, len(t.values)] if "shared_expert_gate" in hf else [len(t.values)]
                yield hf, "BF16", shape, lambda t=t: bf16(t.values)
            elif isinstance(t, Matrix) and "*" in hf:
                n = t.n_rows // e
                for i in range(e):
                    part = Matrix(n, t.n_cols, t.start + i * n * t.n_cols // 32)
                    yield hf.replace("*", str(i)), "BF16", [n, t.n_cols], lambda m=part: self.pool.matrix(m.start, "BF16", m.n_rows, m.n_cols)
            elif isinstance(t, Matrix):
                yield hf, "BF16", [t.n_rows, t.n_cols], lambda m=t: self.pool.matrix(m.start, "BF16", m.n_rows, m.n_cols)
            elif hf.endswith(".gate"):  # gate and up rows alternate
                p = hf[: -len("gate")] + "gate_up_proj"
                def both(hf=hf):
                    gate = self.expert_stack(hf, width, d, 0)
                    up = self.expert_stack(hf[: -len("gate")] + "up", width, d, 0)
                    return np.stack([gate, up], axis=1)
                yield p + "_blocks", "U8", [e, 2 * width, d // 32, 16], both
                yield p + "_scales", "U8", [e, 2 * width, d // 32], lambda: np.full((e, 2 * width, d // 32), mxfp4_scale(d), dtype=np.uint8)
                yield p + "_bias", "BF16", [e, 2 * width], lambda: np.zeros((e, 2 * width), dtype=np.uint16)
            elif hf.endswith(".down"):
                p = hf + "_proj"
                yield p + "_blocks", "U8", [e, d, width // 32, 16], lambda hf=hf: self.expert_stack(hf, d, width, 0)
                yield p + "_scales", "U8", [e, d, width // 32], lambda: np.full((e, d, width // 32), mxfp4_scale(width), dtype=np.uint8)
                yield p + "_bias", "BF16", [e, d], lambda: np.zeros((e, d), dtype=np.uint16)

    def write_hf(self, out, tokenizer):
        os.makedirs(out, exist_ok=True)
        sizes = {"BF16": 2, "U8": 1}
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, dtype, shape, _ in self.hf_tensors():
            n = int(np.prod(shape)) * sizes[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + n]}
            offset += n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(out, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name, _, _, data in self.hf_tensors():
                data().tofile(f)
            assert f.tell() == 8 + len(text) + offset
        s = self.s
        config = dict(hidden_act="silu", hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                      num_key_value_heads=s["kv"], vocab_size=s["vocab"], rms_norm_eps=s["eps"], rope_theta=s["theta"], tie_word_embeddings=False,
                      torch_dtype="bfloat16", max_position_embeddings=s["ctx"], bos_token_id=1, eos_token_id=2, num_experts_per_tok=s["used"])
        if s["arch"] == "gpt-oss":
            config.update(architectures=["GptOssForCausalLM"], model_type="gpt_oss", head_dim=s["head"], intermediate_size=s["inter"],
                          num_local_experts=s["experts"], sliding_window=128, swiglu_limit=7.0, attention_bias=True,
                          layer_types=[("sliding_attention", "full_attention")[i % 2] for i in range(s["layers"])],
                          rope_scaling=dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                                            original_max_position_embeddings=4096),
                          quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=[
                              "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]))
        else:
            config.update(architectures=["Qwen2MoeForCausalLM"], model_type="qwen2_moe", intermediate_size=s["inter"], num_experts=s["experts"],
                          moe_intermediate_size=s["expert"], shared_expert_intermediate_size=s["inter"], decoder_sparse_step=1,
                          norm_topk_prob=False, use_sliding_window=False)
        for name, value in (("config", config), ("generation_config", dict(bos_token_id=1, eos_token_id=2))):
            with open(os.path.join(out, name + ".json"), "w") as f:
                json.dump(value, f, indent=2)
        for name in os.listdir(tokenizer) if tokenizer else []:
            if name.startswith("tokenizer") or name == "special_tokens_map.json":
                shutil.copy(os.path.join(tokenizer, name), out)

    # --- GGUF --------------------------------------------------------------------------------------------------------------
    def gguf_tensors(self, kind):
        """(name, shape as numpy has it, GGUF type or None for float32, function that gives the data)"""
        s = self.s
        e, width, d = s["experts"], s["expert"], s["hidden"]
        for hf, gg, t in self.tensors:
            if isinstance(t, Vector):
                yield gg, [len(t.values)], None, lambda t=t: t.values
            elif gg.endswith("ffn_gate_inp.weight"):
                def router(m=t):
                    bits = self.pool.matrix(m.start, "BF16", m.n_rows, m.n_cols).view(np.uint16).astype(np.uint32) << 16
                    return bits.view(np.float32).reshape(m.n_rows, m.n_cols)
                yield gg, [t.n_rows, t.n_cols], None, router
            elif isinstance(t, Matrix):
                shape = [e, t.n_rows // e, t.n_cols] if "_exps" in gg else [t.n_rows, t.n_cols]
                if gg == "output.weight" and kind == "Q4_0":
                    yield gg, shape, "Q6_K", lambda m=t: self.q6_k(m)
                else:
                    yield gg, shape, kind, lambda m=t: self.pool.matrix(m.start, kind, m.n_rows, m.n_cols)
            else:
                n, m = (d, width) if gg.endswith("down_exps") else (width, d)
                yield gg + ".weight", [e, n, m], "MXFP4", lambda hf=hf, n=n, m=m: gguf_mxfp4(self.expert_stack(hf, n, m, 0), m)
                yield gg + ".bias", [e, n], None, lambda n=n: np.zeros((e, n), dtype=np.float32)

    def q6_k(self, m):
        blocks = self.rng.integers(0, 256, (m.n_rows * m.n_cols // 256, 210), dtype=np.uint8)
        blocks[:, 208:] = np.array([2.0 ** -16], dtype=np.float16).view(np.uint8)
        return blocks.reshape(m.n_rows, -1)

    def write_gguf(self, path, kind):
        import gguf
        s = self.s
        kinds = gguf.GGMLQuantizationType
        w = gguf.GGUFWriter(path, s["arch"])
        w.add_context_length(s["ctx"])
        w.add_embedding_length(s["hidden"])
        w.add_block_count(s["layers"])
        w.add_feed_forward_length(s["inter"])
        w.add_head_count(s["heads"])
        w.add_head_count_kv(s["kv"])
        w.add_key_length(s["head"])
        w.add_value_length(s["head"])
        w.add_layer_norm_rms_eps(s["eps"])
        w.add_rope_freq_base(s["theta"])
        w.add_vocab_size(s["vocab"])
        w.add_expert_count(s["experts"])
        w.add_expert_used_count(s["used"])
        w.add_expert_feed_forward_length(s["expert"])
        if s["arch"] == "gpt-oss":
            w.add_sliding_window(128)
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            w.add_rope_scaling_factor(32.0)
            w.add_rope_scaling_orig_ctx_len(4096)
        else:
            w.add_expert_shared_feed_forward_length(s["inter"])
        w.add_tokenizer_model("none")
        bits = {kind: getattr(kinds, kind) for kind in ("BF16", "Q8_0", "Q4_0", "Q6_K", "MXFP4")}
        for name, shape, form, _ in self.gguf_tensors(kind):
            n = int(np.prod(shape))
            if form is None:
                w.add_tensor_info(name, shape, np.dtype(np.float32), n * 4)
            else:
                elements, size = gguf.GGML_QUANT_SIZES[bits[form]]
                row = shape[:-1] + [shape[-1] // elements * size]
                w.add_tensor_info(name, row, np.dtype(np.uint8), n // elements * size, raw_dtype=bits[form])
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_ti_data_to_file()
        for _, _, _, data in self.gguf_tensors(kind):
            w.write_tensor_data(np.ascontiguousarray(data()))
        w.close()


def hash_of(name):
    return int.from_bytes(name.encode()[-8:], "little") * 2654435761 % (1 << 40) + sum(name.encode()) * 7919


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokenizer")
    parser.add_argument("--gguf", action="append", default=[], metavar="KIND=FILE")
    args = parser.parse_args()
    maker = Maker(args.shape, args.layers)
    maker.plan()
    maker.write_hf(args.out, args.tokenizer)
    for item in args.gguf:
        kind, _, path = item.partition("=")
        maker.write_gguf(path, kind)


if __name__ == "__main__":
    main()
