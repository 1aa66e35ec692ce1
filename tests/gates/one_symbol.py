#!/usr/bin/env python3
"""Checks that each ISA level's object file is safe to link beside the others.

The linker keeps one copy of every weak (inline, template) function. If an object compiled for AVX-512 offered one, plain
x86-64 code could end up calling it and die of an illegal instruction. The same goes for code that runs before main. So each
object must define exactly one global symbol, its table, no weak ones, and no initializers. Sanitizers add such things, and only to builds
that are not shipped: those are skipped.

usage: one_symbol.py NM OBJDUMP LIBRARY...
"""
import subprocess
import sys


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def faults(nm, objdump, library):
    defined = []
    for line in run(nm, '--defined-only', '--portability', library).splitlines():
        fields = line.split()
        if len(fields) < 2 or line.endswith(':'):
            continue
        name, kind = fields[:2]
        if kind.isupper() or kind in 'uvw':
            defined.append((name, kind))
    tables = [name for name, kind in defined if kind in 'DR' and name.endswith('_tableE')]
    if len(tables) != 1:
        yield f'expected one exported table, got {len(tables)}'
    for name, kind in defined:
        if name not in tables:
            yield f'exports {name} (nm type {kind})'
    for line in run(objdump, '--section-headers', library).splitlines():
        for section in ('.init_array', '.ctors', '.preinit_array', '.gnu.linkonce'):
            if section in line:
                yield f'has a section {line.split()[1]}: code that runs before main or is merged by the linker'


def main():
    nm, objdump, *libraries = sys.argv[1:]
    if not libraries:
        sys.exit(__doc__)
    if any(name in run(nm, '--undefined-only', libraries[0]) for name in ('__asan_', '__tsan_', '__ubsan_')):
        print('SKIPPED: the kernels are built with a sanitizer')
        sys.exit(77)
    failed = False
    for library in libraries:
        for fault in faults(nm, objdump, library):
            print(f'{library}: {fault}')
            failed = True
    sys.exit(failed)


if __name__ == '__main__':
    main()
