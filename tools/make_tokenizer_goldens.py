#!/usr/bin/env python3
"""Writes tests/data/tokenizers: what the genuine `tokenizers` library makes of single components and of small whole tokenizers.

    make_tokenizer_goldens.py OUTPUT_DIRECTORY

components.jsonl: a line a component: {"stage", "component", "cases": [[input, output], ...]}.
models.jsonl: a line a BPE model: {"model", "cases": [[text, ids], ...]}.
NAME/: small tokenizers trained here, with cases.jsonl and decode.jsonl as the large fixtures have them.
"""
import json
import os
import random
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

random.seed(20250101)
OUT = sys.argv[1]

PROSE = [
    "The quick brown fox jumps over the lazy dog. It's 7 o'clock; we'll see, they've gone.",
    "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}\n\n\n// done\r\n",
    "Zażółć gęślą jaźń. Der Fluß, naïve café, Ångström, İstanbul, ΟΔΥΣΣΕΥΣ",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया",
    "你好，世界。こんにちは世界、カタカナ。안녕하세요 세계",
    "1234567890 3.14159 1,000,000 ½ ⅷ ² ٣ १२३ x²+y²",
    "emoji 👍🏽 👨‍👩‍👧 🇩🇪 ✨ and combining e\u0301 n\u0303 \u1100\u1161\u11a8",
    "  leading,   double  and trailing   ",
    "tabs\tand\u00a0nbsp\u3000wide\u2028line\u200bzero",
    "CamelCaseWords HTMLParser iPhone snake_case_name kebab-case",
    "don't DON'T you're I'm we'd they'll he's 'tis 'S 'ſ o'Brien",
    "<s> </s> [INST] <|im_start|> ▁under▁score ## @@ </w>",
    "\x00\x01\x1f\x7f\ufeff\ufffd\U000e0041",
    "",
    " ",
    "\n\n",
    "a",
    "...!?,;:--==>>",
    "\u1e9b\u0323 \ufb01 \u212b \u2460 \uff21\uff22 \uac01 \u0344 \u0958",
]
ALPHABET = list("abcXYZ019 \n\t.,'-_!/") + list("éßΣжי中あ가ªʰǅ़́½²Ⅷ١🙂\u200d\u00a0\u2003＂▁") + ["\r\n", "  ", "'s", "'LL", "e\u0301"]


def fuzz(n, size):
    return ["".join(random.choice(ALPHABET) for _ in range(random.randint(1, size))) for _ in range(n)]


TEXTS = PROSE + fuzz(12, 24)


def blank_tokenizer(**parts):
    body = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": []}}
    body.update(parts)
    return Tokenizer.from_str(json.dumps(body))


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = O200K.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
            "\\s*[\r\n]+|\\s+(?!\\S)|\\s+")


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PRE_TOKENIZERS = [
    *[split(p) for p in (GPT2, LLAMA3, QWEN2, O200K, TEKKEN, DEEPSEEK, r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+")],
    *[split(" ", b, i, "String") for b in BEHAVIORS for i in (False, True)],
    *[split(r"[aeiou\s]", b, i) for b in BEHAVIORS for i in (False, True)],
    *[split(p, "Isolated") for p in (r"a{1,2}+", r"\h+", r"a{,2}b", r"^.", r".$", r"(?m:.+)", r"[[:digit:]]+", r"[\p{L}&&[^a-m]]+",
      r"[^\S\n]+", r"\u0061|\x62|\x{63}", r"\p{^L}+", r"\P{L}+", r"[\p{Han}\p{Hiragana}]+", r"\p{Cyrillic}+|\p{Greek}+", r"(?<n>[ab])\k<n>",
      r"[]a]+", r"[a&&b]|c", r"\w+|[^\w\s]+", r"\d+|\D", r"(?<=a)b|(?<!a)b", r"(?i)[k-t]+", r"\b\w", r"[\w-]+", r"x*")],
    byte_level(), byte_level(True), byte_level(False, False), byte_level(True, False),
    {"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False},
    *[{"type": "Punctuation", "behavior": b} for b in BEHAVIORS],
    *[{"type": "Metaspace", "replacement": "▁", "prepend_scheme": s, "split": k} for s in ("always", "first", "never") for k in (True, False)],
    {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}, {"type": "CharDelimiterSplit", "delimiter": "e"},
    {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), {"type": "Digits", "individual_digits": False},
                                           split("[0-9][0-9][0-9]")]},
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]},
    {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
    {"type": "Sequence", "pretokenizers": []},
]
NORMALIZERS = [
    {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
    {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Replace", "pattern": {"Regex": r"(?<=a)"}, "content": "|"},
    {"type": "ByteLevel"},
    *[{"type": "BertNormalizer", "clean_text": c, "handle_chinese_chars": h, "strip_accents": s, "lowercase": l}
      for c, h, s, l in ((True, True, None, True), (True, False, None, False), (False, True, True, False), (False, False, False, True))],
    {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]},
    {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    {"type": "Sequence", "normalizers": []},
]
LLAMA_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                  {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
DECODERS = [
    None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, LLAMA_DECODER,
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 1}, {"type": "Strip", "content": "a", "start": 0, "stop": 2},
    {"type": "Replace", "pattern": {"String": "ab"}, "content": "c"}, {"type": "Replace", "pattern": {"Regex": "[ab]+"}, "content": "<>"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "WordPiece", "prefix": "##", "cleanup": False}, {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "aab"}, "content": "x"}]},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
]
TOKENS = ["a", "b", "ab", "▁a", "▁", "▁▁b", "Ġthe", "Ġ", "ĉ", "Ã", "©", "<0xC3>", "<0xA9>", "<0xE4>", "<0xB8>", "<0xAD>", "<0xFF>", "<0x0a>", "<0xzz>",
          "##ing", "word", "</w>", "lo</w>", " ", "  a ", "aa", "n't", " 's", " .", "日本", "<s>", "aaab", "ðŁ", "ĺ", "Ģ", "do not"]


def component_lines():
    for component in PRE_TOKENIZERS:
        stage = blank_tokenizer(pre_tokenizer=component).pre_tokenizer
        yield {"stage": "pre_tokenizer", "component": component, "cases": [[t, [p for p, _ in stage.pre_tokenize_str(t)]] for t in TEXTS]}
    for component in NORMALIZERS:
        stage = blank_tokenizer(normalizer=component).normalizer
        yield {"stage": "normalizer", "component": component, "cases": [[t, stage.normalize_str(t)] for t in TEXTS]}
    lists = [[], *[[t] for t in TOKENS]] + [[random.choice(TOKENS) for _ in range(random.randint(2, 9))] for _ in range(60)]
    for component in DECODERS:
        cases = []
        for tokens in lists:
            if component and component["type"] == "Strip" and any(len(t) <= component["stop"] for t in tokens):
                continue  # the library panics
            if component and component["type"] == "BPEDecoder" and not tokens:
                continue
            if component is None:
                cases.append([tokens, " ".join(tokens)])
            else:
                cases.append([tokens, blank_tokenizer(decoder=component).decoder.decode(tokens)])
        yield {"stage": "decoder", "component": component, "cases": cases}


def model_lines():
    chars = ["a", "b", "c", "▁", "é", "中", "x"]
    merges = [["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"], ["▁", "a"], ["▁a", "b"], ["x", "▁"], ["c", "c"], ["cc", "cc"], ["é", "é"]]
    plain = {t: i for i, t in enumerate(["<unk>", *chars, *dict.fromkeys("".join(m) for m in merges), "whole", "<0xC3>", "<0x9F>", "<0x7A>"])}
    texts = ["abc", "aabbcc", "▁abc▁abc", "x▁a", "ccccccc", "ßz", "aßßb", "éé中", "zzz", "q", "wholex", "whole", "a▁▁ab", "qq▁qab", "ßq▁a", "", "éaéé"]
    texts += ["".join(random.choice("abcx▁é中ßzq") for _ in range(random.randint(2, 80))) for _ in range(40)]
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, "vocab": plain, "merges": merges}
    variants = [{}, {"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}, {"byte_fallback": True},
                {"byte_fallback": True, "unk_token": "<unk>"}, {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}, {"ignore_merges": True},
                {"merges": merges + [["b", "c"], ["a", "b"]]}, {"merges": [" ".join(m) for m in merges]}, {"dropout": 0.0}]
    words = {t: i for i, t in enumerate(["<unk>", "a", "b", "##a", "##b", "a</w>", "##b</w>", "##a</w>", "##ab</w>", "ab", "aab</w>", "##ba", "b</w>", "abba"])}
    variants.append({"vocab": words, "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>", "unk_token": "<unk>",
                     "merges": [["##a", "##b</w>"], ["a", "##b"], ["a", "##ab</w>"], ["##b", "##a"], ["ab", "##ba"]]})
    for variant in variants:
        model = dict(base, **variant)
        use = texts + ["ab", "aab", "abba", "bab", "aba", "b"]
        tokenizer = blank_tokenizer(model=model)
        yield {"model": model, "cases": [[t, tokenizer.encode(t).ids] for t in use]}


def corpus():
    return PROSE * 3 + fuzz(60, 40)


def save(name, tokenizer, extra_texts=()):
    directory = f"{OUT}/{name}"
    os.makedirs(directory, exist_ok=True)
    body = json.loads(tokenizer.to_str())
    with open(f"{directory}/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(body, f, ensure_ascii=False, separators=(",", ":"))
    with open(f"{directory}/cases.jsonl", "w", encoding="utf-8") as f:
        for text in [*TEXTS, *extra_texts]:
            for special in (False, True):
                ids = tokenizer.encode(text, add_special_tokens=special).ids
                f.write(json.dumps({"text": text, "add_special_tokens": special, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                                    "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True)}, ensure_ascii=False) + "\n")
    size = tokenizer.get_vocab_size()
    with open(f"{directory}/decode.jsonl", "w", encoding="utf-8") as f:
        for n in range(60):
            ids = [random.randrange(size + 3) for _ in range(n % 12)]
            skip = n % 2 == 0
            f.write(json.dumps({"ids": ids, "skip_special_tokens": skip, "text": tokenizer.decode(ids, skip_special_tokens=skip)}, ensure_ascii=False) + "\n")


# Contents of normalized added tokens are stable under their normalizer here: from 0.23 on the library decodes them to the normalized text,
# which also makes it forget that such a token is special; before, and in the project, they decode to what the file says.
def small_tokenizers():
    # Byte level, every flag of an added token, RoBERTa's ends.
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_tokens([AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True, normalized=False), AddedToken("  ", normalized=False),
                  AddedToken("word", single_word=True), AddedToken("caf\u00e9", normalized=True), AddedToken("<|x|>", normalized=False), AddedToken("<|x|>y", normalized=False)])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=True, special=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    flags = ["a <l> b<r>  c", "word sword word, wordy-word", "caf\u00e9 cafe\u0301 CAF\u00c9", "<|x|>yz <|x|>", "x \n<mask>\t y<mask>", "<r>    <r>\n<l>", "   word   ", "<s>a</s> b"]
    save("byte_level", t, flags)

    # Llama 2's way: byte fallback, no pre-tokenizer.
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.train_from_iterator([" ".join(corpus())], trainers.BpeTrainer(vocab_size=700, limit_alphabet=90, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
    body = json.loads(t.to_str())
    body["added_tokens"] = body["added_tokens"][:3]
    body["decoder"] = LLAMA_DECODER
    t = Tokenizer.from_str(json.dumps(body))
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    save("byte_fallback", t, ["<s>a b</s> c", "a</s>", "  <s>  ", "a" * 200, "▁" * 70, "ab " * 60])

    # The newer way, and a sequence of post-processors.
    t.normalizer = None
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)])])
    save("metaspace", t, ["<s>a b</s> c", "a</s>", "  <s>  "])

    # Falcon's chain: splits that look at the byte alphabet's characters.
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False),
                                               pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=350, special_tokens=["<|endoftext|>"], show_progress=False))
    save("split_after_bytes", t, ["²³¹ \u00b2 1234567 ¼"])

    # CLIP's way: lower case, ends of words, continuing prefix, no byte level.
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="##"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=500, end_of_word_suffix="</w>", continuing_subword_prefix="##", special_tokens=["<unk>", "<end>"], show_progress=False))
    save("word_ends", t, ["the end<end>the"])


with open(f"{OUT}/components.jsonl", "w", encoding="utf-8") as f:
    for line in component_lines():
        f.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
with open(f"{OUT}/models.jsonl", "w", encoding="utf-8") as f:
    for line in model_lines():
        f.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
small_tokenizers()
print("tokenizers", tokenizers.__version__, file=sys.stderr)
