"""Writes the trained demo model as a Hugging Face directory: export.py TRAINED OUT [--dtype bfloat16|int8] [--before EARLIER --share 0.85]

--before takes the mean with the weights that training went on from: it keeps more of what those knew. int8 is the compressed-tensors layout `int-quantized` (weights [n_out, n_in] with a scale a row); embedding and norms stay bfloat16."""
import argparse, json, os

import torch
from safetensors.torch import save_file

from train import weights_of

ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def names(model, shape):
    """-> {name as Transformers has it: tensor}"""
    out = {"model.embed_tokens.weight": model["embed"], "model.norm.weight": model["norms"][-1]}
    for i in range(shape["n_layers"]):
        at = f"model.layers.{i}."
        for j, name in enumerate("qkvo"): out[f"{at}self_attn.{name}_proj.weight"] = model["wqkvo"][i, j]
        out[at + "mlp.gate_proj.weight"], out[at + "mlp.up_proj.weight"] = model["w_in"][i]
        out[at + "mlp.down_proj.weight"] = model["w_down"][i]
        out[at + "input_layernorm.weight"], out[at + "post_attention_layernorm.weight"] = model["norms"][2 * i], model["norms"][2 * i + 1]
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("trained")
    parser.add_argument("out")
    parser.add_argument("--dtype", choices=["bfloat16", "int8"], default="bfloat16")
    parser.add_argument("--before", help="what TRAINED went on from: a directory with its checkpoint, or one that this program wrote")
    parser.add_argument("--share", type=float, default=0.85, help="of TRAINED, in the mean with --before")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    trained = torch.load(args.trained + "/checkpoint.pt")
    shape = trained["shape"]
    if args.before:
        before = torch.load(args.before + "/checkpoint.pt")["model"] if os.path.exists(args.before + "/checkpoint.pt") else weights_of(args.before)
        trained["model"] = {name: torch.lerp(before[name], tensor, args.share) for name, tensor in trained["model"].items()}
    print("step", trained["step"])
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "hidden_size": shape["d_model"], "intermediate_size": shape["d_ff"],
              "num_hidden_layers": shape["n_layers"], "num_attention_heads": shape["n_heads"], "num_key_value_heads": shape["n_heads"], "head_dim": shape["d_model"] // shape["n_heads"], "vocab_size": shape["vocab_size"],
              "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 3}
    tensors = {}
    for name, tensor in names(trained["model"], shape).items():
        if args.dtype == "int8" and "_proj" in name:
            # One scale a row, of the row's largest weight.
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12).bfloat16()
            tensors[name] = (tensor / scale.float()).round().clamp(-128, 127).to(torch.int8)
            tensors[name + "_scale"] = scale
        else:
            tensors[name] = tensor.bfloat16().contiguous()
    if args.dtype == "int8":
        weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False, "group_size": None, "observer": "minmax", "observer_kwargs": {}, "actorder": None, "block_structure": None}
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed", "kv_cache_scheme": None, "global_compression_ratio": None, "ignore": ["lm_head"],
                                         "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}}}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, args.out + "/model.safetensors", metadata={"format": "pt", "license": "Apache-2.0"})
    write = lambda name, value: open(f"{args.out}/{name}", "w").write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    write("config.json", config)
    write("generation_config.json", {"do_sample": False, "eos_token_id": 3, "pad_token_id": 3})
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>", "model_max_length": 512, "clean_up_tokenization_spaces": False,
                                    "added_tokens_decoder": {str(i): {"content": r, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False} for i, r in enumerate(ROLES)}})
    tokenizer = json.load(open(args.trained + "/tokenizer.json"))
    with open(args.out + "/tokenizer.json", "w") as file: file.write(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
