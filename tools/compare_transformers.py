"""Run by tools/compare inside reference-env: compare_transformers.py MODEL DTYPE N_PROMPT N_GEN THREADS prints [prefill, decode] in tok/s."""
import json
import sys
import time

import torch
import transformers

path, dtype, n_prompt, n_gen, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
transformers.logging.disable_progress_bar()
torch.set_num_threads(threads)
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
prompt = torch.randint(10, 10000, (1, n_prompt), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    model(prompt[:, :8], logits_to_keep=1)  # warm up
    start = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    prefill = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(n_gen):
        out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    decode = time.perf_counter() - start
print(json.dumps([n_prompt / prefill, n_gen / decode]))
