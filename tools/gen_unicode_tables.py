#!/usr/bin/env python3
"""Prints src/text/tokenizer/unicode_tables.inc.

Run with a Python whose `unicodedata` is Unicode 16 and that has Hugging Face's `tokenizers`. Categories come from
`unicodedata`; what no standard file says (the library's \\w, its \\p{Script}, the Unicode 9 state of its normalizers) is measured on
the library itself, which is the thing to be equal to.
"""
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "16.0.0", unicodedata.unidata_version
N = 0x110000
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs".split()
WHITE_SPACE, WORD, COMPOSES = 32, 64, 128
SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari".split()

CODE_POINTS = [c for c in range(N) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, CODE_POINTS))
INDEX = {c: i for i, c in enumerate(CODE_POINTS)}


def matching(pattern):
    """Code points that the library's regex engine matches with a one-character pattern."""
    left = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(ALL)
    outside = bytearray(len(CODE_POINTS))
    for _, (begin, end) in left:
        outside[begin:end] = b"\1" * (end - begin)
    return {c for i, c in enumerate(CODE_POINTS) if not outside[i]}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def cut_out(pre_tokenizer):
    """Code points that a pre-tokenizer cuts out of the middle of a word."""
    return {c for c in CODE_POINTS if len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def normalizes_as_unassigned():
    """Code points to which newer Unicode gives a decomposition or a combining class, but not the library."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    late = set()
    for c in CODE_POINTS:
        s = chr(c)
        if 0xAC00 <= c < 0xD7A4:
            continue
        if unicodedata.normalize("NFD", s) != nfd.normalize_str(s) or unicodedata.normalize("NFKD", s) != nfkd.normalize_str(s):
            late.add(c)
        ccc = unicodedata.combining(s)
        if ccc:  # a mark of another class before it changes places with it, unless the library holds it for a starter
            before = "\u0345" if ccc < 240 else "\u0334"
            swapped = nfd.normalize_str("a" + before + s) if ccc < 240 else nfd.normalize_str("a" + s + before)
            if swapped == "a" + (before + s if ccc < 240 else s + before):
                late.add(c)
    return late


def main():
    late = normalizes_as_unassigned()
    words = matching(r"\w")
    spaces = matching(r"\s")
    # Neither changed by NFC nor joined to what stands before it.
    seconds = set()
    for c in CODE_POINTS:
        d = unicodedata.decomposition(chr(c))
        if d and not d.startswith("<") and c not in late:
            parts = [int(x, 16) for x in d.split()]
            if len(parts) == 2 and unicodedata.normalize("NFC", chr(c)) == chr(c):
                seconds.add(parts[1])
    seconds |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    table = bytearray(N)
    for c in range(N):
        s = chr(c)
        v = CATEGORIES.index(unicodedata.category(s))
        if c in spaces:
            v |= WHITE_SPACE
        if c in words:
            v |= WORD
        if c not in late and not 0xD800 <= c < 0xE000:
            if unicodedata.normalize("NFC", s) != s or unicodedata.combining(s) or c in seconds:
                v |= COMPOSES
        table[c] = v

    best = None
    for bits in (6, 7, 8):
        blocks, index, seen = [], [], {}
        for b in range(0, N, 1 << bits):
            block = bytes(table[b:b + (1 << bits)])
            if block not in seen:
                seen[block] = len(blocks)
                blocks.append(block)
            index.append(seen[block])
        size = len(index) * (1 if len(blocks) <= 256 else 2) + len(blocks) * (1 << bits)
        if best is None or size < best[0]:
            best = (size, bits, blocks, index)
    _, bits, blocks, index = best

    def runs(values):
        out = []
        for v in values:
            if out and out[-1][0] == v and out[-1][1] < 65535:
                out[-1][1] += 1
            else:
                out.append([v, 1])
        return out

    def emit(name, ctype, items, per_line):
        print(f"inline constexpr {ctype} {name}[] = {{")
        for i in range(0, len(items), per_line):
            print("  " + ",".join(items[i:i + per_line]) + ",")
        print("};")

    print(f"// Made by tools/gen_unicode_tables.py (unicodedata {unicodedata.unidata_version}, tokenizers {tokenizers.__version__}); do not edit.")
    print(f"inline constexpr int kBlockBits = {bits};")
    print(f"inline constexpr int kBlockCount = {len(blocks)};")
    print("// Run lengths: value, count.")
    emit("kIndexRuns", "uint16_t", [f"{v},{n}" for v, n in runs(index)], 20)
    emit("kBlockRuns", "uint16_t", [f"{v},{n}" for v, n in runs(b"".join(blocks))], 20)
    print("// Code points newer than Unicode 9 that today have a decomposition or a combining class: first, last.")
    emit("kNormalizedAsUnassigned", "uint32_t", [f"{a},{b}" for a, b in ranges(late)], 12)
    print("// What the Punctuation and Digits pre-tokenizers take: other Unicode versions than the categories above.")
    emit("kPunctuationRanges", "uint32_t", [f"{a},{b}" for a, b in ranges(cut_out(pre_tokenizers.Punctuation()))], 12)
    emit("kNumericRanges", "uint32_t", [f"{a},{b}" for a, b in ranges(cut_out(pre_tokenizers.Digits(True)))], 12)
    for script in SCRIPTS:
        emit(f"kScript{script}", "uint32_t", [f"{a},{b}" for a, b in ranges(matching(r"\p{%s}" % script))], 12)
    print("struct Script {\n  const char* name;\n  const uint32_t* ranges;\n  size_t count;\n};")
    print("inline constexpr Script kScripts[] = {")
    for script in SCRIPTS:
        print(f'  {{"{script.lower()}", kScript{script}, std::size(kScript{script}) / 2}},')
    print("};")
    print(f"blocks {len(blocks)} of {1 << bits}, table {best[0]} bytes, late {len(late)}", file=sys.stderr)


main()
