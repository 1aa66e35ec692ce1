"""Starting the server, and talking to it byte by byte or by requests."""
import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cli"))
import tiny_model  # noqa: E402
from sanitized import SANITIZED  # noqa: E402

ENGINE = os.environ.get("ENGINE", "engine")
FIXTURES = os.environ.get("ENGINE_FIXTURES", "")
SCRATCH = tempfile.mkdtemp(prefix="engine-server-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
TIMEOUT = 60 * (10 if SANITIZED else 1)

_models = {}


def alphabet_model():
    """Answers every chat with A to Z and ends; small letters go round for ever."""
    if "alphabet" not in _models:
        _models["alphabet"] = tiny_model.write(os.path.join(SCRATCH, "alphabet"))
    return _models["alphabet"]


def random_model():
    """Random weights: what it says is nonsense, but depends on every token before."""
    return os.path.join(HERE, "..", "data", "models", "tiny-chat")


def roomy_model():
    """The same with a context of 8192, for prompts with tools in them."""
    if "roomy" not in _models:
        _models["roomy"] = shutil.copytree(random_model(), os.path.join(SCRATCH, "roomy"))
        path = os.path.join(_models["roomy"], "config.json")
        with open(path) as file:
            config = json.load(file)
        with open(path, "w") as file:
            json.dump({**config, "max_position_embeddings": 8192}, file)
    return _models["roomy"]


class Server:
    """`engine serve` on a free port; its log lines as JSON in `log`."""

    def __init__(self, model, *arguments, host=None, threads=1):
        command = [ENGINE, "serve", model, "--log", "json", "--threads", str(threads)]
        command += ["--port", "0"] if host is None else ["--host", host]
        self.process = subprocess.Popen(command + list(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.log, self.other = [], []
        line = self._read()
        while line and line.get("event") != "listening":
            line = self._read()
        if not line:
            raise RuntimeError("the server did not start: " + "".join(self.other))
        self.at = line["at"]
        self.port = int(self.at.rsplit(":", 1)[1]) if self.at.startswith("http") else 0
        self.reader = threading.Thread(target=self._follow, daemon=True)
        self.reader.start()

    def _read(self):
        text = self.process.stderr.readline()
        if not text:
            return None
        try:
            line = json.loads(text)
            self.log.append(line)
            return line
        except ValueError:
            self.other.append(text)
            return {"event": ""}

    def _follow(self):
        while self._read():
            pass

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        code = self.process.poll()
        if code is None:
            code = self.stop()
        if kind is None and code != 0:
            raise AssertionError(f"the server ended with {code}: {''.join(self.other)} {self.log[-3:]}")

    def stop(self, number=signal.SIGTERM, timeout=TIMEOUT):
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    # --- requests ---

    def request(self, method, path, body=None, headers=None, timeout=TIMEOUT):
        """(status, headers, body as text)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        if isinstance(data, str):
            data = data.encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})} if body is not None else (headers or {}))
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, dict(response.getheaders()), text

    def get(self, path, **more):
        status, _, text = self.request("GET", path, **more)
        return status, text

    def post(self, path, body, **more):
        """(status, parsed body)"""
        status, _, text = self.request("POST", path, body, **more)
        return status, json.loads(text)

    def chat(self, content="hello", **fields):
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **fields})

    def stream(self, path, body):
        """All events, parsed; "[DONE]" as it is; comments left out."""
        status, headers, text = self.request("POST", path, {**body, "stream": True})
        assert status == 200, (status, text)
        assert headers["Content-Type"] == "text/event-stream", headers
        events = [e[6:] for e in text.split("\n\n") if e.startswith("data: ")]
        return [e if e == "[DONE]" else json.loads(e) for e in events]

    def raw(self, data, timeout=TIMEOUT, chunks=None):
        """Sends bytes and reads until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            try:
                for chunk in chunks or [data]:
                    s.sendall(chunk)
            except OSError:
                pass
            return read_all(s)

    def metric(self, name):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith("engine_" + name + " "):
                return float(line.split()[-1])
        raise KeyError(name)


def read_all(s):
    out = b""
    try:
        while True:
            data = s.recv(65536)
            if not data:
                break
            out += data
    except OSError:
        pass
    return out


def run(module_main):
    """Runs a module's unittest cases and prints the line that tools/count_tests.py reads."""
    import unittest

    program = unittest.main(module=module_main, exit=False, verbosity=2)
    result = program.result
    bad, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - bad - skipped} passed, {bad} failed, {skipped} skipped", flush=True)
    sys.exit(1 if bad else 0)
