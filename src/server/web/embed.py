"""Writes the page's files as C++ string literals: embed.py OUTPUT FILE..."""
import os
import sys

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def literal(data):
    # In short pieces: compilers bound the length of one literal. Octal, as a hexadecimal escape would swallow digits after it.
    pieces = []
    for at in range(0, len(data), 60):
        text = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else "\\%03o" % b for b in data[at:at + 60])
        pieces.append(f'    "{text}"')
    return "\n".join(pieces) or '    ""'


def main():
    output, names = sys.argv[1], sys.argv[2:]
    out = ['#include "server/web_data.h"', "", "namespace engine::server {", ""]
    rows = []
    for i, name in enumerate(names):
        with open(name, "rb") as file:
            data = file.read()
        out.append(f"static const char file_{i}[] =\n{literal(data)};")
        rows.append(f'    {{file_{i}, {len(data)}, "{TYPES[os.path.splitext(name)[1]]}"}},')
    out += ["", "const WebFile web_files[] = {", *rows, "};", "", "}  // namespace engine::server", ""]
    with open(output, "w") as file:
        file.write("\n".join(out))


main()
