#!/usr/bin/env python3
"""Makes tests/data/processors/goldens.json with the genuine Transformers: scores after generate()'s own list of processors and warpers.

Run where transformers and torch can be imported:  python3 tools/make_processor_goldens.py OUT.json
Each case: vocab-sized logits, the tokens so far, the prompt's length, the settings, and the expected scores (null: -inf).
The case "large" has 150,000 logits made by large_logits(), which the test repeats, and only a summary as expectation.
"""
import json
import sys
import types

import torch
import transformers
from transformers import GenerationConfig, GenerationMixin

VOCAB = 32
EOS = [2, 3]


def large_logits(n, seed):
    """Sum of four uniforms from a multiplicative hash, in double, exact in any language; then float32."""
    out = []
    for i in range(n):
        x = 0.0
        for j in range(4):
            h = ((i * 4 + j + seed) * 2654435761) % 2**32
            h = ((h ^ (h >> 15)) * 2246822519) % 2**32
            h = ((h ^ (h >> 13)) * 3266489917) % 2**32
            x += ((h ^ (h >> 16)) >> 8) / 2**24
        out.append((x - 2.0) * 8.0)
    return torch.tensor([out], dtype=torch.float64).to(torch.float32)


def processors(settings, n_prompt):
    config = GenerationConfig(**settings)
    config.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    eos = config.eos_token_id
    config._eos_token_tensor = None if eos is None else torch.tensor(eos if isinstance(eos, list) else [eos])
    if config.min_new_tokens is not None:
        config.min_length = config.min_new_tokens + n_prompt  # as _prepare_generated_length does
    owner = types.SimpleNamespace(config=types.SimpleNamespace(is_encoder_decoder=False))
    owner._merge_criteria_processor_list = types.MethodType(GenerationMixin._merge_criteria_processor_list, owner)
    return GenerationMixin._get_logits_processor(owner, config, input_ids_seq_length=n_prompt, device="cpu")


def run(settings, logits, tokens, n_prompt):
    return processors(settings, n_prompt)(torch.tensor([tokens]), logits.clone())[0]


def main():
    generator = torch.Generator().manual_seed(20)
    spread = lambda scale: (torch.randn(1, VOCAB, generator=generator) * scale)
    inputs = {"wide": spread(4.0), "narrow": spread(0.5), "peaked": spread(9.0)}
    ties = torch.zeros(1, VOCAB)
    ties[0, ::3] = 1.0
    ties[0, 5] = 2.0
    inputs["ties"] = ties
    inputs["uniform"] = torch.zeros(1, VOCAB)
    holes = spread(3.0)
    holes[0, [0, 7, 8, 9, 30]] = -float("inf")
    inputs["holes"] = holes
    lonely = torch.full((1, VOCAB), -float("inf"))
    lonely[0, 11] = -3.0
    lonely[0, 12] = -4.0
    inputs["lonely"] = lonely

    S = {"do_sample": True, "top_k": 0}
    base = [5, 9, 5, 9, 7, 5, 9]
    alone = [
        {"do_sample": False},
        {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 8},
        {"no_repeat_ngram_size": 9},
        {"bad_words_ids": [[4], [9, 6], [5, 9, 8], [7, 7, 7]]}, {"bad_words_ids": [[2], [4], [2, 3]], "eos_token_id": 2},
        {"bad_words_ids": [[9, 5, 9, 7, 5, 9, 1], [5, 9, 5, 9, 7, 5, 9, 1]]},
        {"min_length": 7, "eos_token_id": 2}, {"min_length": 8, "eos_token_id": EOS}, {"min_length": 8},
        {"min_new_tokens": 3, "eos_token_id": EOS}, {"min_new_tokens": 4, "eos_token_id": 3},
        {"min_new_tokens": 1, "min_length": 100, "eos_token_id": 3},
        {"suppress_tokens": [1, 5, 31]}, {"begin_suppress_tokens": [1, 5, 31]},
        dict(S), dict(S, temperature=0.6), dict(S, temperature=1.7), dict(S, temperature=0.01),
        {"do_sample": True}, dict(S, top_k=1), dict(S, top_k=5), dict(S, top_k=31), dict(S, top_k=100),
        dict(S, top_p=0.9), dict(S, top_p=0.5), dict(S, top_p=0.1), dict(S, top_p=0.999999), dict(S, top_p=0.0),
        dict(S, min_p=0.0), dict(S, min_p=0.05), dict(S, min_p=0.5), dict(S, min_p=1.0),
        dict(S, typical_p=0.9), dict(S, typical_p=0.5), dict(S, typical_p=0.1), dict(S, typical_p=0.9999),
        dict(S, epsilon_cutoff=0.01), dict(S, epsilon_cutoff=0.2), dict(S, epsilon_cutoff=0.9),
        dict(S, eta_cutoff=0.01), dict(S, eta_cutoff=0.2), dict(S, eta_cutoff=0.9),
    ]
    combined = [
        {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1},
        {"do_sample": True, "temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.1},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "typical_p": 0.8, "epsilon_cutoff": 0.02, "eta_cutoff": 0.05},
        {"do_sample": True, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[4], [9, 6]], "min_new_tokens": 5,
         "suppress_tokens": [1, 20], "begin_suppress_tokens": [6], "eos_token_id": EOS, "temperature": 0.9, "top_k": 8, "top_p": 0.7},
        {"do_sample": False, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.2},
        {"do_sample": True, "typical_p": 0.6, "min_p": 0.02, "top_k": 16, "temperature": 2.0},
    ]

    # The logits handed over are exact: float32 printed with enough digits.
    shown = lambda row: [None if x == -float("inf") else x for x in row.tolist()]
    cases = []
    for settings in alone:
        for name in inputs:
            if "do_sample" not in settings and name in ("narrow", "peaked", "uniform", "lonely"):
                continue
            for n_prompt in ((4, 7) if "begin_suppress_tokens" in settings else (4,)):
                cases.append((settings, name, base, n_prompt))
    for settings in combined:
        for name in inputs:
            cases.append((settings, name, base, 4))
            if name == "wide":
                cases.append((settings, name, base, 7))
    cases.append(({"no_repeat_ngram_size": 3, "repetition_penalty": 1.5}, "wide", [5], 1))

    out = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "inputs": {name: shown(row[0]) for name, row in inputs.items()},
        "cases": [],
        "large": [],
    }
    for settings, name, tokens, n_prompt in cases:
        scores = run(settings, inputs[name], tokens, n_prompt)
        # A score that is the input's own is written as "=" to keep the file small.
        expected = ["=" if a == b else b for a, b in zip(shown(inputs[name][0]), shown(scores))]
        out["cases"].append({"settings": settings, "input": name, "tokens": tokens, "n_prompt": n_prompt, "expected": expected})

    n = 150_000
    logits = large_logits(n, 7)
    for settings in [
        {"do_sample": True}, dict(S, top_p=0.9), dict(S, top_p=0.3, temperature=0.5), {"do_sample": True, "top_k": 1000, "top_p": 0.95},
        dict(S, min_p=0.1), dict(S, typical_p=0.4), dict(S, epsilon_cutoff=3e-5), dict(S, eta_cutoff=1e-3),
        {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    ]:
        scores = run(settings, logits, base, 4)
        kept = (scores > -float("inf")).nonzero()[:, 0]
        out["large"].append({
            "settings": settings, "n_vocab": n, "seed": 7, "tokens": base, "n_prompt": 4, "n_kept": len(kept),
            "id_sum": int(kept.sum()), "score_sum": float(scores[kept].double().sum()),
            "kept": kept.tolist() if len(kept) <= 64 else kept[:16].tolist(),
        })
    with open(sys.argv[1], "w") as file:
        file.write("{\n" + f'"made_with": {json.dumps(out["made_with"])},\n"inputs": {{\n')
        file.write(",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out["inputs"].items()))
        for part in ("cases", "large"):
            file.write(("\n}" if part == "cases" else "\n]") + f',\n"{part}": [\n' + ",\n".join(json.dumps(c) for c in out[part]))
        file.write("\n]\n}\n")


if __name__ == "__main__":
    main()
