#!/usr/bin/env python3
"""Reads a compressed-tensors model directory without engine: every weight as float32, with nothing but numpy.

    read_compressed_tensors.py DIR                  lists the tensors
    read_compressed_tensors.py DIR OUT              writes a directory with plain float32 weights instead

Written from the layout's description, not from engine's code, so that the two can check each other. `pack-quantized`: M.weight_packed int32
[rows, ceil(cols * bits / 32)] holds q + 2^(bits-1), lowest bits first; M.weight_shape. `int-quantized`: M.weight int8. Both: M.weight_scale
[rows, groups] or [rows, 1], M.weight_zero_point (packed down the rows in pack-quantized), M.weight_g_idx [cols].
value = (q - zero_point) * scale.
"""
import json
import os
import shutil
import sys

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[8 + size + begin:8 + size + end], dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array
    return tensors


def read_directory(directory):
    index = os.path.join(directory, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if os.path.exists(index):
        with open(index) as file:
            files = sorted(set(json.load(file)["weight_map"].values()))
    tensors = {}
    for file in files:
        tensors.update(read_safetensors(os.path.join(directory, file)))
    return tensors


def unpack(words, bits, n, axis):
    """n signed integers along `axis` of int32 words."""
    words = np.moveaxis(words, axis, -1).view(np.uint32)
    columns = [(words >> np.uint32(bits * i)) & np.uint32(2 ** bits - 1) for i in range(32 // bits)]
    values = np.stack(columns, axis=-1).reshape(*words.shape[:-1], -1)[..., :n]
    return np.moveaxis(values.astype(np.int32) - 2 ** (bits - 1), -1, axis)


def group_size(config, cols, n_groups):
    if n_groups == 1:
        return cols
    for group in config["config_groups"].values():
        size = (group.get("weights") or {}).get("group_size")
        if size and -(-cols // size) == n_groups:
            return size
    raise ValueError("no group_size fits %d scales for %d columns" % (n_groups, cols))


def dequantize(tensors, module, config):
    scale = tensors[module + ".weight_scale"].astype(np.float32)
    zero = tensors.get(module + ".weight_zero_point")
    if module + ".weight_packed" in tensors:
        rows, cols = (int(n) for n in tensors[module + ".weight_shape"])
        packed = np.ascontiguousarray(tensors[module + ".weight_packed"])
        bits = 8 if packed.shape[1] == -(-cols * 8 // 32) else 4
        q = unpack(packed, bits, cols, 1)
        if zero is not None:
            zero = unpack(np.ascontiguousarray(zero), bits, rows, 0)
    else:
        q = tensors[module + ".weight"].astype(np.int32)
        rows, cols = q.shape
    scale = np.broadcast_to(scale.reshape(-1, 1) if scale.ndim < 2 else scale, (rows, scale.shape[-1] if scale.ndim == 2 else 1))
    groups = np.arange(cols) // group_size(config, cols, scale.shape[1])
    if module + ".weight_g_idx" in tensors:
        groups = tensors[module + ".weight_g_idx"]
    if zero is not None:
        q = q - np.broadcast_to(zero.astype(np.int32), scale.shape)[:, groups]
    return q.astype(np.float32) * scale[:, groups]


def read_weights(directory):
    """All weights of a directory by their usual names."""
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)["quantization_config"]
    tensors = read_directory(directory)
    weights = {}
    for name, array in tensors.items():
        module, _, part = name.rpartition(".")
        if part in ("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"):
            continue
        quantized = part == "weight_packed" or (part == "weight" and module + ".weight_scale" in tensors)
        weights[module + ".weight" if quantized else name] = dequantize(tensors, module, config) if quantized else array
    return weights


def write_safetensors(path, weights):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, array in weights.items():
        size = array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in weights.values():
            file.write(np.ascontiguousarray(array, dtype="<f4").tobytes())


def write_plain(directory, out):
    os.mkdir(out)
    for name in os.listdir(directory):
        if name != "config.json" and not name.endswith((".safetensors", ".index.json")):
            shutil.copy(os.path.join(directory, name), out)
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    del config["quantization_config"]
    config["torch_dtype"] = config["dtype"] = "float32"
    with open(os.path.join(out, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    write_safetensors(os.path.join(out, "model.safetensors"), read_weights(directory))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write_plain(sys.argv[1], sys.argv[2])
    elif len(sys.argv) == 2:
        for weight_name, weight in sorted(read_weights(sys.argv[1]).items()):
            print("%-60s %-16s mean square %.6g" % (weight_name, list(weight.shape), float(np.mean(np.square(weight, dtype=np.float64)))))
    else:
        sys.exit(__doc__)
