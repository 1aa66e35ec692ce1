"""Whether the program under test was built with a sanitizer. Such a one reserves terabytes of addresses and takes some times the memory and the time."""
import os


def _sanitized(path):
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        program = file.read()
    return b"__asan_init" in program or b"__tsan_init" in program


SANITIZED = _sanitized(os.environ.get("ENGINE", ""))
