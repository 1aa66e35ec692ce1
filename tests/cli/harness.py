"""What the tests of the built program share: running it, temporary models, counting."""
import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import tiny_model
from sanitized import SANITIZED

ENGINE = os.environ.get("ENGINE", "engine")
EMULATOR = os.environ.get("ENGINE_EMULATOR", "").split()  # in front of ENGINE, for another processor's program
FIXTURES = os.environ.get("ENGINE_FIXTURES", "")
HERE = tempfile.mkdtemp(prefix="engine-cli-")
atexit.register(shutil.rmtree, HERE, ignore_errors=True)

ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": os.path.join(HERE, "home"), "LC_ALL": "C.UTF-8", "TERM": "xterm-256color",
}
for name in ("ENGINE_ISA", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "TMPDIR", "QEMU_CPU"):
    if name in os.environ:
        ENVIRONMENT[name] = os.environ[name]
os.makedirs(ENVIRONMENT["HOME"], exist_ok=True)


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return "exit %d\nstdout: %r\nstderr: %r" % (self.code, self.out, self.err)


def engine(*arguments, stdin="", cwd=None, environment=None, timeout=60):
    """`timeout` in seconds, ten times as many under an emulator or a sanitizer."""
    timeout *= 10 if EMULATOR or SANITIZED else 1
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run([*EMULATOR, ENGINE, *arguments], input=data, capture_output=True, timeout=timeout, cwd=cwd or HERE,
                          env={**ENVIRONMENT, **(environment or {})})
    err = done.stderr.decode()
    if EMULATOR:  # which may complain of what it leaves out of a processor
        err = "".join(line for line in err.splitlines(keepends=True) if ": warning: TCG " not in line)
    return Result(done.returncode, done.stdout.decode(), err)


_models = {}


def model(name="tiny", **changes):
    """A model directory, made once."""
    if name not in _models:
        _models[name] = tiny_model.write(os.path.join(HERE, name), **changes)
    return _models[name]


def fixture(name):
    path = os.path.join(FIXTURES, name)
    if not FIXTURES or not os.path.isdir(path):
        raise unittest.SkipTest("goldens are not here: " + name)
    return path


def write_file(name, text):
    path = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


class Case(unittest.TestCase):
    maxDiff = 2000

    def succeeds(self, result):
        self.assertEqual(result.code, 0, result)
        return result

    def fails(self, result, code, *words):
        """Exit code, nothing on stdout, one `engine:` line (and a hint at most) that holds all the words."""
        self.assertEqual(result.code, code, result)
        self.assertEqual(result.out, "", result)
        lines = result.err.splitlines()
        self.assertTrue(lines and lines[0].startswith("engine: "), result)
        self.assertLessEqual(len(lines), 2, result)
        if len(lines) == 2:
            self.assertTrue(lines[1].startswith("hint: "), result)
        for word in words:
            self.assertIn(word, result.err, result)
        return result

    def json(self, result):
        return json.loads(self.succeeds(result).out)


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(verbosity=1, stream=sys.stdout).run(suite)
    bad = len(result.failures) + len(result.errors)
    print("%d passed, %d failed, %d skipped" % (result.testsRun - bad - len(result.skipped), bad, len(result.skipped)))
    sys.exit(1 if bad else 0)
