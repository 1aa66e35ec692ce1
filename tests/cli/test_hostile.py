"""What no careful user would type: odd values of every option, odd files in place of every file, closed streams, signals at any time. The program
must do it, or refuse it in one line; it must not crash, hang, or take much memory.

    test_hostile.py          a fixed fortieth of all values of options
    test_hostile.py all      all of them"""
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import tiny_model
from harness import EMULATOR, ENGINE, ENVIRONMENT, HERE, Case, engine, main, model, write_file
from sanitized import SANITIZED

EVERYTHING = "all" in sys.argv[1:]
SECONDS = 300  # no command takes five, but machines are busy
MEMORY = 4 << 30  # of address space

ODD = ["", " ", "-", "--", "0", "-1", "1", "7", "00", "+1", "0x10", "1.5", "1e3", "1e999", "nan", "inf", "-inf", "2147483647", "2147483648", "4294967296",
       "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "1K", "1T", "0.0001", "1e300G", "true", "None", "[1]", "{}", "'", "\"",
       "a\nb", "\t", "\x1b[31m", "%s%n", "é", b"\xff\xfe", "=", "a=b", "/", ".", "..", "/dev/null", "/dev/zero", "/nowhere/at/all", "x" * 5000, "x" * 100_000,
       "../" * 2000, "*", "unix:", "unix:/nowhere/s", "::1", "256.256.256.256"]


def limits():
    if not SANITIZED:  # whose shadow memory is terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(arguments, stdin=b"", seconds=SECONDS, environment=None, **streams):
    """(exit code, stdout, stderr); a server that has started is told to end."""
    process = subprocess.Popen([*EMULATOR, ENGINE, *arguments], cwd=HERE, env={**ENVIRONMENT, **(environment or {})}, preexec_fn=limits,
                               **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams})
    try:
        if arguments and arguments[0] == "serve":
            head = b""
            while b"listening" not in head:
                piece = os.read(process.stderr.fileno(), 65536)
                if not piece:
                    break
                head += piece
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=seconds)
            return process.returncode, out, head + err
        out, err = process.communicate(stdin if process.stdin else None, timeout=seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, out or b"", err or b""


def trouble(result):
    """What is wrong with a result, or None."""
    code, out, err = result
    if code not in (0, 1, 2, 130):
        return "exit code %d" % code
    if b"internal error" in err or b"Sanitizer" in err or b"runtime error" in err:
        return "an internal error"
    if code in (1, 2) and not out.startswith((b"fine", b"good", b"ok", b"wrong", b"none")):  # of `check`
        lines = err.decode(errors="replace").splitlines()
        at = [i for i, line in enumerate(lines) if line.startswith("engine: ")]
        if not at:
            return "no line that says what is wrong"
        rest = lines[at[-1] + 1:]
        if len(rest) > 1 or (rest and not rest[0].startswith("hint: ")):
            return "more lines than an error and a hint"
        if re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", err):
            return "control characters"
    return None


def options_of(command):
    """The options that take a value, from the command's own help."""
    text = engine(command, "--help").out
    return re.findall(r"^ +(?:-\w, |    )(--[\w-]+) (?:\[?[A-Z0-9|]+)", text, re.M)


def base(command):
    """A command line of the command that succeeds and is quick."""
    tiny = model()
    text = write_file("hostile.txt", "abcdefgh" * 4)
    return {
        "chat": ["chat", tiny, "max_new_tokens=2"],
        "generate": ["generate", tiny, "-p", "x", "max_new_tokens=2"],
        "serve": ["serve", tiny, "--port", "0"],
        "inspect": ["inspect", tiny],
        "check": ["check", tiny],
        "perplexity": ["perplexity", tiny, text],
        "tokenize": ["tokenize", tiny, "x"],
        "detokenize": ["detokenize", tiny, "65"],
        "template": ["template", "render", tiny, "--context", write_file("context.json", '{"messages": []}')],
        "bench": ["bench", tiny, "-p", "8", "-n", "2", "-r", "1"],
        "quantize": ["quantize", tiny, os.path.join(HERE, "out"), "--dtype", "int8"],
        "logits": ["logits", tiny, "--input", write_file("none.safetensors", b""), "--output", os.path.join(HERE, "logits.safetensors")],
        "pull": ["pull", "a/b"],
        "version": ["version"],
        "completions": ["completions", "bash"],
        "man": ["man"],
    }[command]


COMMANDS = ["chat", "generate", "serve", "inspect", "check", "perplexity", "tokenize", "detokenize", "template", "bench", "quantize", "logits", "pull",
            "version", "completions", "man"]
OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


class Arguments(Case):
    def try_all(self, cases):
        cases = list(cases)
        if not EVERYTHING:
            cases = random.Random(1).sample(cases, len(cases) // 40)
        for arguments in cases:
            if os.path.isdir(os.path.join(HERE, "out")):
                shutil.rmtree(os.path.join(HERE, "out"))
            with self.subTest(arguments=[a[:60] for a in arguments]):
                result = run(arguments, environment=OFFLINE)
                self.assertIsNone(trouble(result), (result[0], result[2][-2000:]))
        print(len(cases), "command lines", flush=True)

    def test_values(self):
        self.try_all([*base(command), option, value] for command in COMMANDS for option in options_of(command) for value in ODD)

    def test_words(self):
        self.try_all([command, *words] for command in COMMANDS
                     for words in ([], *([w] for w in ODD), *(base(command)[1:] + [w] for w in ODD), ["x"] * 2000))

    def test_settings(self):
        keys = ["max_new_tokens", "min_new_tokens", "max_length", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop_strings",
                "eos_token_id", "bad_words_ids", "suppress_tokens", "num_beams", "no_repeat_ngram_size", "num_return_sequences", "do_sample", "epsilon_cutoff",
                "typical_p", "length_penalty", "sequence_bias", "forced_bos_token_id", "system_prompt", ""]
        values = [v for v in ODD if isinstance(v, str)]
        self.try_all(["generate", model(), "-p", "x", "--ctx", "64", key + "=" + value] for key in keys for value in values)

    def test_no_words_at_all(self):
        for words in ([], [""], ["-"], ["--"], ["---"], ["-q"], [b"\xff"], ["x" * 100_000]):
            self.assertIn(run(words)[0], (0, 2), words)


class Files(Case):
    """Something else in place of each file that a command reads or writes."""

    def odd_files(self):
        path = os.path.join(HERE, "odd")
        os.makedirs(path, exist_ok=True)

        def made(name, make):
            at = os.path.join(path, name)
            if not os.path.lexists(at):
                make(at)
            return at

        def listen(at):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(at)

        return {
            "directory": made("directory", os.mkdir), "fifo": made("fifo", os.mkfifo), "loop": made("loop", lambda at: os.symlink(at, at)),
            "dangling": made("dangling", lambda at: os.symlink("/nowhere", at)), "socket": made("socket", listen), "empty": write_file("odd/empty", b""),
            "null": "/dev/null", "zero": "/dev/zero", "full": "/dev/full", "binary": write_file("odd/binary", bytes(range(256)) * 100),
            "name": write_file(b"odd/\xff\xfe".decode(errors="surrogateescape"), b"x"), "mem": "/proc/self/mem", "long": "/" + "x" * 300,
        }

    def test_files_of_a_model(self):
        files = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
                 "chat_template.jinja"]
        for name in files:
            for kind, path in self.odd_files().items():
                directory = os.path.join(HERE, "odd-model")
                shutil.rmtree(directory, ignore_errors=True)
                tiny_model.write(directory)
                target = os.path.join(directory, name)
                if os.path.exists(target):
                    os.remove(target)
                os.symlink(path, target)
                for command in ("generate", "check", "inspect"):
                    with self.subTest(name=name, kind=kind, command=command):
                        result = run([command, directory] + (["-p", "x", "max_new_tokens=2"] if command == "generate" else []))
                        self.assertIsNone(trouble(result), result)

    def test_files_of_options(self):
        tiny = model()
        lines = [["generate", tiny, "max_new_tokens=2", "--messages"], ["generate", tiny, "-p", "x", "--json-schema"], ["chat", tiny, "--load"],
                 ["generate", tiny, "-p", "x", "max_new_tokens=2", "--chat-template"], ["generate", tiny, "-p", "x", "--generation-config"],
                 ["generate", tiny, "-p", "x", "--adapter"], ["generate", tiny, "-p", "x", "--draft"], ["generate", "-p", "x"], ["perplexity", tiny],
                 ["quantize", tiny, os.path.join(HERE, "never"), "--dtype", "int8", "--calibrate"], ["template", "render", "--context", "/dev/null", "--template"],
                 ["template", "render", tiny, "--context"], ["logits", tiny, "--output", os.path.join(HERE, "l"), "--input"],
                 ["serve", tiny, "--port", "0", "--api-key-file"], ["quantize", tiny, "--dtype", "int8"], ["inspect"], ["check"], ["tokenize"]]
        for kind, path in self.odd_files().items():
            for line in lines:
                if kind == "fifo" and line[-1] != "--input" and line[0] not in ("inspect", "check", "tokenize", "quantize") and line != ["generate", "-p", "x"]:
                    continue  # below
                with self.subTest(kind=kind, line=line):
                    result = run(line + [path])
                    shutil.rmtree(os.path.join(HERE, "never"), ignore_errors=True)
                    self.assertIsNone(trouble(result), result)

    def test_pipes(self):
        """A file that is named may be a pipe (as <(...) in a shell); waiting for a writer can be interrupted."""
        path = os.path.join(HERE, "pipe")
        os.mkfifo(path)
        command = [*EMULATOR, ENGINE, "generate", model(), "max_new_tokens=2", "-q", "--messages", path]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with open(path, "w") as file:
            file.write('[{"role": "user", "content": "x"}]')
        self.assertEqual((process.communicate(timeout=SECONDS)[0], process.returncode), (b"AB\n", 0))
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        self.assertIn(process.wait(SECONDS), (130, -signal.SIGINT))
        process.communicate()


class Streams(Case):
    LINES = [["generate", "MODEL", "-p", "x"], ["generate", "MODEL", "-p", "x", "--json"], ["generate", "MODEL", "-p", "x", "--stream"], ["generate", "MODEL"],
             ["generate", "MODEL", "--messages", "-"], ["chat", "MODEL", "max_new_tokens=3"], ["tokenize", "MODEL"], ["tokenize", "MODEL", "--jsonl"],
             ["detokenize", "MODEL"], ["template", "render", "--jsonl"], ["inspect", "MODEL"], ["inspect", "MODEL", "--json"], ["version"], ["--help"],
             ["man"], ["completions", "bash"], ["check", "MODEL"], ["bench", "MODEL", "-p", "8", "-n", "2", "-r", "1"]]

    def lines(self):
        return [[model() if a == "MODEL" else a for a in line] for line in self.LINES]

    def test_closed(self):
        """Each of the three streams closed: what the program opens then may get its number."""
        for line in self.lines():
            for closing in ("<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"):
                with self.subTest(line=line, closing=closing):
                    shell = ["sh", "-c", 'exec "$@" ' + closing, "sh", *EMULATOR, ENGINE, *line]
                    done = subprocess.run(shell, input=b"x\n", capture_output=True, timeout=SECONDS, env=ENVIRONMENT, cwd=HERE)
                    self.assertIn(done.returncode, (0, 1, 2), done)
                    if ">&-" in closing.split() and line[0] not in ("chat", "tokenize", "detokenize", "template") and "--messages" not in line:
                        self.assertNotEqual(done.returncode, 0, done)  # what could not be written was not written
                    self.assertNotIn(b"Sanitizer", done.stderr)

    def test_full(self):
        for line in self.lines():
            with self.subTest(line=line), open("/dev/full", "w") as full:
                code, _, err = run(line, b'{"text": "x", "ids": [65], "template": "x", "context": {}}\n', stdout=full)
                self.assertIsNone(trouble((code, b"", err)), (code, err))
                if "--messages" not in line and line[0] != "detokenize":
                    self.assertEqual(code, 1, err)

    def test_nobody_reads(self):
        for line in self.lines():
            with self.subTest(line=line):
                reader, writer = os.pipe()
                os.close(reader)
                code, _, err = run(line, b"x\n", stdout=writer)
                os.close(writer)
                self.assertIsNone(trouble((code, b"", err)), (code, err))

    def test_odd_input(self):
        inputs = [b"", b"\0", b"\n" * 1000, bytes(range(256)), b"\xff" * 10_000, b"{}\n" * 100, b"[]\n", b"null\n", b'{"ids": [-1, 1e99, "x", null]}\n',
                  b'{"ids": [99999999999999999999]}\n', b'{"text": "\\ud800"}\n', b'{"text": 5}\n', b"[" * 100_000, b"x" * 300_000, b"-1 -99999999999999999999 1.5 x\n",
                  b'{"template": "{{", "context": {}}\n', b'{"template": "x", "context": 1}\n', b'{"template_file": "/dev/zero", "context": {}}\n']
        for line in self.lines():
            if line[0] in ("generate", "chat", "tokenize", "detokenize", "template") and "-p" not in line:
                for data in inputs:
                    with self.subTest(line=line, data=data[:40]):
                        result = run(line + (["max_new_tokens=2"] if line[0] == "generate" else []), data)
                        self.assertIsNone(trouble(result), result)


class Signals(Case):
    def test_any_time(self):
        """SIGINT, SIGTERM, SIGHUP and SIGPIPE after a random time."""
        rng = random.Random(1)
        tiny = model()
        lines = [["generate", tiny, "-p", "abc", "max_new_tokens=100000"], ["chat", tiny], ["serve", tiny, "--port", "0"],
                 ["quantize", tiny, os.path.join(HERE, "stopped"), "--dtype", "int4"], ["bench", tiny], ["perplexity", tiny, write_file("long.txt", "ab" * 5000)]]
        for _ in range(200 if EVERYTHING else 4):
            for line in lines:
                shutil.rmtree(os.path.join(HERE, "stopped"), ignore_errors=True)
                number, after = rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE]), rng.random() ** 3 * 0.5
                with self.subTest(line=line, signal=number, after=after):
                    process = subprocess.Popen([*EMULATOR, ENGINE, *line], cwd=HERE, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                               stderr=subprocess.PIPE)
                    process.stdin.write(b"aaaa\n" * 20)
                    process.stdin.flush()
                    time.sleep(after)
                    process.send_signal(number)
                    if number in (signal.SIGPIPE, signal.SIGHUP):  # ignored, or the server's order to read its keys again
                        time.sleep(0.05)
                        process.send_signal(signal.SIGTERM)
                    _, err = process.communicate(timeout=SECONDS)
                    self.assertIn(process.returncode, (0, 130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGPIPE), err)
                    self.assertNotIn(b"Sanitizer", err)
                    self.assertFalse([f for f in os.listdir(HERE) if f.startswith("stopped") and not os.path.exists(os.path.join(HERE, f, "config.json"))])


if __name__ == "__main__":
    main()
