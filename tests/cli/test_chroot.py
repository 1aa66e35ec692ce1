"""The program alone in an empty root directory: no /etc, /proc, /dev, nothing to look anything up in."""
import json
import os
import shutil
import subprocess
import unittest
import urllib.request

from harness import ENGINE, HERE, Case, Result, main, model
from hub_server import Hub, make_certificate

ROOT = os.path.join(HERE, "root")
os.makedirs(ROOT)
shutil.copy(ENGINE, os.path.join(ROOT, "engine"))
# As root, or as nobody in particular in a namespace of its own.
ENTER = ["chroot", ROOT] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "chroot", ROOT]
SEARCH = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


def command(*arguments, environment=None):
    enter = [shutil.which(ENTER[0], path=SEARCH["PATH"]) or ENTER[0], *ENTER[1:]]
    clean = [shutil.which("env"), "-i", *("%s=%s" % pair for pair in (environment or {}).items()), "PATH=" + SEARCH["PATH"]]
    return [*clean, *enter, "/engine", *arguments]


def alone(*arguments, stdin="", environment=None, timeout=60):
    done = subprocess.run(command(*arguments, environment=environment), input=stdin.encode(), capture_output=True, timeout=timeout, cwd="/")
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def works():
    try:
        return alone("version").code == 0
    except OSError:
        return False


@unittest.skipUnless(b"ELF" == open(ENGINE, "rb").read(4)[1:] and works(), "no root directory of our own to be had here, or the program is not static")
class Chroot(Case):
    def test_version(self):
        self.assertIn("isa chosen", self.succeeds(alone("version")).out)

    def test_generate(self):
        result = self.succeeds(alone("generate", "-q", "-p", "What is the capital of France?"))
        self.assertEqual((result.out, result.err), ("The capital of France is Paris.\n", ""))

    def test_chat(self):
        result = self.succeeds(alone("chat", "-q", stdin="My name is Clara.\nWhat is my name?\n!save chat.json\n!exit\n"))
        self.assertIn("Clara", result.out.splitlines()[1])
        self.assertTrue(os.path.isfile(os.path.join(ROOT, "chat.json")))

    def test_sampling(self):
        # Random numbers come from the system by a call, where there is no /dev/urandom.
        answers = {self.succeeds(alone("generate", "-q", "-p", "Hello", "do_sample=True", "temperature=9", "top_k=0", "max_new_tokens=24")).out for _ in range(4)}
        self.assertGreater(len(answers), 1, answers)

    def test_serve(self):
        with subprocess.Popen(command("serve", "--port", "0", "--log", "json"), stderr=subprocess.PIPE, text=True, cwd="/") as process:
            try:
                at = next(json.loads(line)["at"] for line in process.stderr if '"listening"' in line)
                body = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}]}).encode()
                request = urllib.request.Request(at + "/v1/chat/completions", body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self.assertEqual(json.load(answer)["choices"][0]["message"]["content"], "The capital of France is Paris.")
                with urllib.request.urlopen(at + "/metrics", timeout=60) as answer:
                    self.assertIn("resident_bytes 0", answer.read().decode())  # nothing tells
            finally:
                process.terminate()
        self.assertEqual(process.returncode, 0)

    def test_a_model_directory(self):
        shutil.copytree(model(), os.path.join(ROOT, "model"))
        self.assertEqual(self.succeeds(alone("generate", "/model", "-q", "-p", "x", "max_new_tokens=3", "--threads", "2")).out, "ABC\n")
        self.succeeds(alone("quantize", "/model", "/model-int8", "-q", "--dtype", "int8"))
        self.assertEqual(self.succeeds(alone("generate", "/model-int8", "-q", "-p", "x", "max_new_tokens=3")).out, "ABC\n")

    def test_the_plan(self):
        plan = self.json(alone("inspect", "--json"))
        self.assertTrue(0 < plan["plan"]["available_bytes"] < 2**46, plan)

    def test_what_is_missing_is_named(self):
        self.fails(alone("generate", "/none", "-p", "x"), 1, "/none", "found nothing")
        self.fails(alone("generate", "org/x", "-p", "x"), 1, "engine pull org/x")
        self.fails(alone("pull", "org/x", environment={"HF_ENDPOINT": "http://localhost:1"}), 1, "localhost:1", "Connection refused")
        self.fails(alone("pull", "org/x", environment={"HF_ENDPOINT": "http://name.invalid"}), 1, "name.invalid", "cannot find the host")

    def test_pull(self):
        hub = Hub.of(model())
        self.addCleanup(hub.stop)
        self.succeeds(alone("pull", "org/tiny", environment={"HF_ENDPOINT": hub.endpoint}))
        self.assertEqual(self.succeeds(alone("generate", "org/tiny", "-q", "-p", "x", "max_new_tokens=3")).out, "ABC\n")

    @unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
    def test_no_authorities(self):
        if not self.json(alone("version", "--json"))["tls"]:
            self.skipTest("built without TLS")
        hub = Hub({}, certificate=make_certificate(HERE))
        self.addCleanup(hub.stop)
        self.fails(alone("pull", "org/tiny", environment={"HF_ENDPOINT": hub.endpoint}), 1, "certificates of authorities", "SSL_CERT_FILE")


main()
