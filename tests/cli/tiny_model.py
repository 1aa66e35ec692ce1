"""Writes a model directory whose answers are known: a Llama that has learned one thing, which token follows which.

Attention and feed-forward add nothing (their output matrices are zero), so the logits depend on the last token alone: the output matrix
holds, in the row of each token, the embedding of the token it follows. After "assistant\\n" comes the alphabet, A to Z, then <|im_end|>; small
letters go round for ever.
"""
import json
import os
import random
import struct

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Teaches calls as Qwen's and Hermes' templates do.
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "{{ '<tool_call>\\n{\"name\": NAME, \"arguments\": ARGUMENTS}\\n</tool_call><|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message.tool_calls %}{{ '<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_symbols():
    """GPT-2's alphabet: a printable character for every byte."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbols, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            symbols[byte] = chr(byte)
        else:
            symbols[byte] = chr(256 + extra)
            extra += 1
    return symbols


def successors(n_says=0):
    """token -> the token after it; ids are the bytes themselves, special tokens from 256 on, then those of `says`."""
    after = {token: token for token in range(256 + len(SPECIAL) + n_says)}
    after[ord("\n")] = ord("A")
    for letter in range(ord("A"), ord("Z")):
        after[letter] = letter + 1
    after[ord("Z")] = 256 + SPECIAL.index("<|im_end|>")
    after[256 + SPECIAL.index("<|im_end|>")] = ord("a")
    for letter in range(ord("a"), ord("z")):
        after[letter] = letter + 1
    after[ord("z")] = ord("a")
    first = 256 + len(SPECIAL)
    for i in range(n_says):
        after[first + i - 1 if i > 0 else ord("\n")] = first + i
        after[first + i] = 256 + SPECIAL.index("<|im_end|>")
    return after


def write_safetensors(path, tensors):
    header, offset, blobs = {}, 0, []
    for name, (shape, values) in tensors.items():
        blob = struct.pack("<%df" % len(values), *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def dump(directory, name, value):
    with open(os.path.join(directory, name), "w") as file:
        json.dump(value, file)


def write(directory, context=4096, template=CHATML, tokenizer=True, generation_config=None, says=(), **config_changes):
    """`template` None: a base model. `says`: what it answers instead of the alphabet, each string a token; (string, True): a special one. `config_changes` go into config.json (None removes a key)."""
    os.makedirs(directory, exist_ok=True)
    d_model, d_ff, d_head, vocab_size = 64, 16, 16, 256 + len(SPECIAL) + len(says)
    generator = random.Random(1)
    embedding = [[generator.choice((-1.0, 1.0)) for _ in range(d_model)] for _ in range(vocab_size)]
    output = [[0.0] * d_model for _ in range(vocab_size)]
    for token, following in successors(len(says)).items():
        for i in range(d_model):
            output[following][i] += embedding[token][i]

    def flat(rows):
        return [x for row in rows for x in row]

    def zeros(*shape):
        n = 1
        for d in shape:
            n *= d
        return list(shape), [0.0] * n

    layer = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": ([vocab_size, d_model], flat(embedding)),
        layer + "input_layernorm.weight": ([d_model], [1.0] * d_model),
        layer + "self_attn.q_proj.weight": zeros(d_head, d_model),
        layer + "self_attn.k_proj.weight": zeros(d_head, d_model),
        layer + "self_attn.v_proj.weight": zeros(d_head, d_model),
        layer + "self_attn.o_proj.weight": zeros(d_model, d_head),
        layer + "post_attention_layernorm.weight": ([d_model], [1.0] * d_model),
        layer + "mlp.gate_proj.weight": zeros(d_ff, d_model),
        layer + "mlp.up_proj.weight": zeros(d_ff, d_model),
        layer + "mlp.down_proj.weight": zeros(d_model, d_ff),
        "model.norm.weight": ([d_model], [1.0] * d_model),
        "lm_head.weight": ([vocab_size, d_model], flat(output)),
    }
    write_safetensors(os.path.join(directory, "model.safetensors"), tensors)
    im_end = 256 + SPECIAL.index("<|im_end|>")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d_model, "intermediate_size": d_ff,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": d_head, "hidden_act": "silu",
        "max_position_embeddings": context, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "vocab_size": vocab_size, "eos_token_id": im_end, "torch_dtype": "float32",
    }
    config.update(config_changes)
    dump(directory, "config.json", {key: value for key, value in config.items() if value is not None})
    dump(directory, "generation_config.json", generation_config or {"eos_token_id": im_end, "do_sample": False})
    if not tokenizer:
        return directory
    added = [
        {"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, text in enumerate(SPECIAL)
    ]
    for text in says:
        text, special = text if isinstance(text, tuple) else (text, False)
        added.append({**added[0], "id": 256 + len(added), "content": text, "special": special})
    vocab = {symbol: byte for byte, symbol in byte_symbols().items()}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    dump(directory, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level,
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []},
    })
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                        "model_max_length": context, "clean_up_tokenization_spaces": False}
    if template is not None:
        tokenizer_config["chat_template"] = template
    dump(directory, "tokenizer_config.json", tokenizer_config)
    return directory
