"""Trains the demo model on endless dialogues: one process a core, gradients summed once a step, learning rate by the wall clock.

  train.py CACHE OUT --minutes 65     CACHE: facts and words (prepare.py); OUT: tokenizer.json, checkpoint.pt (the newest), log.txt

Muon for the matrices, Adam for embeddings and norms. Loss on the answers only."""
import argparse, json, math, os, shutil, time

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from dialogues import Maker, held_back_questions

ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
SHAPE = {"d_model": 128, "n_layers": 4, "n_heads": 4, "d_ff": 384, "vocab_size": 2048}
# The pattern of Llama 3: numbers are tokens of their own, whatever stands before them.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def make_tokenizer(maker, path):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=SHAPE["vocab_size"], special_tokens=[AddedToken(r, special=True, normalized=False) for r in ROLES], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    texts = [q for _ in range(60000) for q in maker.question()] + [str(n) for n in range(200)] * 40
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(path)


class Llama(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, ff, n = shape["d_model"], shape["d_ff"], shape["n_layers"]
        self.n_heads = shape["n_heads"]
        self.embed = torch.nn.Parameter(torch.randn(shape["vocab_size"], d) * 0.04)
        self.wqkvo = torch.nn.Parameter(torch.randn(n, 4, d, d) * d**-0.5)
        self.w_in = torch.nn.Parameter(torch.randn(n, 2, ff, d) * d**-0.5)
        self.w_down = torch.nn.Parameter(torch.randn(n, d, ff) * ff**-0.5)
        self.norms = torch.nn.Parameter(torch.ones(2 * n + 1, d))
        with torch.no_grad():
            self.wqkvo[:, 3] *= (2 * n) ** -0.5
            self.w_down *= (2 * n) ** -0.5
        d_head = d // self.n_heads
        angle = torch.arange(512)[:, None] * (10000.0 ** (-torch.arange(0, d_head, 2) / d_head))[None]
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1), persistent=False)

    def forward(self, ids, at):
        """ids [B, T]; at [N]: flat positions -> logits [N, V]"""
        b, t = ids.shape
        x = self.embed[ids]
        d = x.shape[-1]
        cos, sin = self.cos[:t], self.sin[:t]
        rope = lambda y: y * cos + torch.roll(y, y.shape[-1] // 2, -1) * sin
        norms = self.norms.unbind()
        for layer, (wqkvo, w_in, w_down) in enumerate(zip(self.wqkvo.unbind(), self.w_in.unbind(), self.w_down.unbind())):
            wqkv, wo = wqkvo.reshape(4 * d, d).split([3 * d, d])
            h = F.rms_norm(x, (d,), norms[2 * layer], 1e-5)
            q, k, v = F.linear(h, wqkv).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
            x = x + F.linear(y.transpose(1, 2).reshape(b, t, d), wo)
            h = F.rms_norm(x, (d,), norms[2 * layer + 1], 1e-5)
            gate, up = F.linear(h, w_in.reshape(-1, d)).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w_down)
        x = F.rms_norm(x.reshape(b * t, d)[at], (d,), norms[-1], 1e-5)
        return F.linear(x, self.embed)


def orthogonal(g):
    """Newton-Schulz iteration of Muon, on a stack of matrices."""
    turn = g.shape[-2] > g.shape[-1]
    x = (g.transpose(-2, -1) if turn else g).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.transpose(-2, -1) if turn else x).float()


def weights_of(directory):
    """-> state of Llama(SHAPE), from what export.py wrote (bfloat16, or int8 with a scale a row)."""
    from safetensors.torch import load_file
    stored = load_file(directory + "/model.safetensors")
    get = lambda name: stored[name].float() * (stored[name + "_scale"].float() if name + "_scale" in stored else 1.0)
    n = SHAPE["n_layers"]
    at = lambda i, name: get(f"model.layers.{i}.{name}.weight")
    return {"embed": get("model.embed_tokens.weight"),
            "wqkvo": torch.stack([torch.stack([at(i, f"self_attn.{x}_proj") for x in "qkvo"]) for i in range(n)]),
            "w_in": torch.stack([torch.stack([at(i, "mlp.gate_proj"), at(i, "mlp.up_proj")]) for i in range(n)]),
            "w_down": torch.stack([at(i, "mlp.down_proj") for i in range(n)]),
            "norms": torch.stack([at(i, name) for i in range(n) for name in ("input_layernorm", "post_attention_layernorm")] + [get("model.norm.weight")])}


class Optimizer:
    def __init__(self, model):
        self.matrices = [model.wqkvo, model.w_in, model.w_down]
        self.others = [model.embed, model.norms]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.m = [torch.zeros_like(p) for p in self.others]
        self.v = [torch.zeros_like(p) for p in self.others]
        self.n = 0

    @torch.no_grad()
    def step(self, grads, rate):
        self.n += 1
        for p, m in zip(self.matrices, self.momentum):
            g = grads[p]
            m.lerp_(g, 0.05)
            update = orthogonal(g.lerp(m, 0.95).reshape(-1, *p.shape[-2:])).reshape(p.shape)
            p.mul_(1 - 0.02 * rate * 0.02).add_(update, alpha=-0.02 * rate * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)
        for p, m, v in zip(self.others, self.m, self.v):
            g = grads[p]
            m.lerp_(g, 0.1)
            v.lerp_(g * g, 0.02)
            p.add_((m / (1 - 0.9**self.n)) / ((v / (1 - 0.98**self.n)).sqrt() + 1e-8), alpha=-0.004 * rate)


def encode(tokenizer, system, turns, cut=None):
    """cut: tokens of the last answer that are kept; its beginning decides, the rest is known by heart"""
    ids, labels = [], []
    if system is not None:
        ids += [0] + tokenizer.encode(system).ids + [3]
    labels += [-1] * len(ids)
    for question, answer in turns:
        q, a = tokenizer.encode(question).ids, tokenizer.encode(answer).ids
        ids += [1] + q + [3, 2] + a + [3]
        labels += [-1] * (len(q) + 3) + a + [3]
    end = len(ids) - max(0, len(a) + 1 - cut) if cut else len(ids)
    return ids[:end], labels[:end]


def micro_batches(cache, seed, tokenizer, n_tokens, all_questions, focus):
    """Dialogues of like length side by side, so that little is padding."""
    maker = Maker(cache, seed, held_back_questions(), all_questions, focus)
    while True:
        pool = sorted((encode(tokenizer, *maker.dialogue(), maker.rng.choice([None, 7, 7, 7, 7] if focus else [None, None, 8, 8, 8])) for _ in range(1000)), key=lambda row: len(row[0]))
        pool = [row for row in pool if len(row[0]) <= 400]
        groups, at = [], 0
        while at < len(pool):
            end = at + 1
            while end < len(pool) and (end - at + 1) * len(pool[end][0]) <= n_tokens: end += 1
            groups.append(pool[at:end])
            at = end
        maker.rng.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), length), 3)
            labels = torch.full((len(group), length), -1)
            for row, (i, l) in enumerate(group):
                ids[row, :len(i)] = torch.tensor(i)
                labels[row, :len(l)] = torch.tensor(l)
            labels = torch.cat([labels[:, 1:], torch.full((len(group), 1), -1)], 1).reshape(-1)
            at_ = (labels >= 0).nonzero()[:, 0]
            yield ids, at_, labels[at_]


@torch.no_grad()
def validate(model, tokenizer, rows):
    """-> {kind: share of questions whose whole answer is the likeliest one}"""
    right, all_ = {}, {}
    rows = sorted(((kind, *encode(tokenizer, None, [(question, answer)])) for kind, question, answer in rows), key=lambda row: len(row[1]))
    for start in range(0, len(rows), 32):
        some = rows[start:start + 32]
        length = max(len(ids) for _, ids, _ in some)
        ids = torch.tensor([i + [3] * (length - len(i)) for _, i, _ in some])
        best = model(ids, torch.arange(ids.numel())).argmax(-1).view(ids.shape)
        for (kind, _, labels), row in zip(some, best.tolist()):
            all_[kind] = all_.get(kind, 0) + 1
            right[kind] = right.get(kind, 0) + all(row[i] == labels[i + 1] for i in range(len(labels) - 1) if labels[i + 1] >= 0)
    return {kind: right[kind] / n for kind, n in all_.items()}


def work(rank, args, model, grads, counter, barrier, stats, rate, start):
    from tokenizers import Tokenizer
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(args.out + "/tokenizer.json")
    batches = micro_batches(args.cache, args.seed * 1000 + rank + int(time.time()) % 100000 * 10, tokenizer, args.micro_tokens, args.all_questions, args.focus)
    validation = Maker(args.cache, 1).validation() if rank == 0 else None
    parameters = list(model.parameters())
    optimizer = Optimizer(model) if rank == 0 else None
    if rank == 0 and (args.resume or args.start): optimizer.__dict__.update(n=100)
    step, saved, logged, validated, seen, lost, counted = 0, time.time(), time.time(), time.time(), 0, 0.0, 0
    total = args.minutes * 60
    while True:
        for g in grads[rank]: g.zero_()
        stats[rank].zero_()
        while True:
            with counter.get_lock():
                if counter.value >= args.micro_batches: break
                counter.value += 1
            ids, at, labels = next(batches)
            loss = F.cross_entropy(model(ids, at), labels, reduction="sum")
            for g, d in zip(grads[rank], torch.autograd.grad(loss, parameters)): g.add_(d)
            stats[rank].add_(torch.tensor([loss.item(), len(labels), ids.numel()], dtype=torch.float64))
        barrier.wait()
        if rank == 0:
            counter.value = 0
            now = time.time()
            fraction = min(1.0, (now - start) / total)
            warm = min(1.0, (step + 1) / (5 if args.resume or args.start else 30))
            rate.value = args.rate * warm * (1.0 if fraction < args.hold else max(0.02, (1 - fraction) / (1 - args.hold)))
            all_ = sum(stats)
            summed = {p: sum(g[i] for g in grads) / max(1.0, all_[1].item()) for i, p in enumerate(parameters)}
            norm = math.sqrt(sum((g * g).sum().item() for g in summed.values()))
            optimizer.step(summed, rate.value)
            step += 1
            seen += int(all_[2]); lost += all_[0].item(); counted += all_[1].item()
            if now - logged > 20:
                line = f"{now - start:.0f}s step {step} loss {lost / counted:.4f} tokens/s {seen / (now - logged):.0f} rate {rate.value:.3f} grad {norm:.3f}"
                print(line, flush=True)
                open(args.out + "/log.txt", "a").write(line + "\n")
                logged, seen, lost, counted = now, 0, 0.0, 0
            if now - validated > 900 or fraction >= 1.0:
                shares = " ".join(f"{kind} {100 * share:.1f}%" for kind, share in validate(model, tokenizer, validation).items())
                print("validation:", shares, flush=True)
                open(args.out + "/log.txt", "a").write("validation: " + shares + "\n")
                validated = now
            if now - saved > 120 or fraction >= 1.0:
                torch.save({"shape": SHAPE, "model": model.state_dict(), "step": step}, args.out + "/checkpoint.tmp")
                os.replace(args.out + "/checkpoint.tmp", args.out + "/checkpoint.pt")
                saved = now
            if fraction >= 1.0: rate.value = -1.0
        barrier.wait()
        if rate.value < 0: break


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cache")
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--micro-tokens", type=int, default=1536)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--hold", type=float, default=0.35, help="share of the time before the learning rate falls")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rate")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", metavar="DIRECTORY", help="go on from weights and tokenizer that export.py wrote, like --resume from a checkpoint")
    parser.add_argument("--all-questions", action="store_true", help="train on the written questions that are kept for validation, too")
    parser.add_argument("--focus", action="store_true", help="mostly single written questions: little time to go on from weights that know the rest")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    if args.start: shutil.copyfile(args.start + "/tokenizer.json", args.out + "/tokenizer.json")
    if not os.path.exists(args.out + "/tokenizer.json"): make_tokenizer(Maker(args.cache, args.seed, held_back_questions()), args.out + "/tokenizer.json")
    model = Llama(SHAPE)
    if args.start: model.load_state_dict(weights_of(args.start))
    elif args.resume: model.load_state_dict(torch.load(args.out + "/checkpoint.pt")["model"])
    print("parameters:", sum(p.numel() for p in model.parameters()), flush=True)
    model.share_memory()
    grads = [[torch.zeros_like(p).share_memory_() for p in model.parameters()] for _ in range(args.workers)]
    stats = [torch.zeros(3, dtype=torch.float64).share_memory_() for _ in range(args.workers)]
    context = mp.get_context("fork")
    counter, barrier, rate = context.Value("i", 0), context.Barrier(args.workers), context.Value("d", 0.0)
    shared = (args, model, grads, counter, barrier, stats, rate, time.time())
    others = [context.Process(target=work, args=(rank, *shared), daemon=True) for rank in range(1, args.workers)]
    for p in others: p.start()
    work(0, *shared)
    for p in others: p.join()


if __name__ == "__main__":
    main()
