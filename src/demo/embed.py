"""Writes a C++ source that holds files as they are: embed.py OUTPUT FILE... The assembler reads them, so even megabytes compile at once."""
import os
import sys


def main():
    output, names = sys.argv[1], sys.argv[2:]
    out = ['#include "demo/demo.h"', "", "// Aligned for any tensor. gcc and clang take .incbin for every target."]
    for i, name in enumerate(names):
        # Global symbols: the compiler may move the statement away from the functions that use them.
        lines = [f'.section .rodata.demo_{i},"a"', ".balign 64", f".globl demo_{i}_begin", f"demo_{i}_begin:", f'.incbin "{os.path.abspath(name)}"',
                 f".globl demo_{i}_end", f"demo_{i}_end:", ".byte 0", ".previous"]
        out.append('asm(R"(' + "\n".join(lines) + '\n)");')
    out += ["", 'extern "C" {']
    out += [f'extern const std::byte demo_{i}_begin[], demo_{i}_end[];' for i in range(len(names))]
    out += ["}", "", "namespace engine::demo {", "", "std::span<const BuiltinFile> files() {", "  static const BuiltinFile all[] = {"]
    out += [f'      {{"demo:/{os.path.basename(name)}", {{demo_{i}_begin, demo_{i}_end}}}},' for i, name in enumerate(names)]
    out += ["  };", "  return all;", "}", "", "}  // namespace engine::demo", ""]
    with open(output, "w") as file:
        file.write("\n".join(out))


main()
