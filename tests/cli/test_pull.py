"""`engine pull`: from a server that behaves like the Hub, and from ones that do not."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import unittest

import tiny_model
from harness import ENGINE, ENVIRONMENT, HERE, Case, engine, main, model
from hub_server import COMMIT, Hub, Proxy, git_hash, make_certificate

TLS = json.loads(subprocess.run([ENGINE, "version", "--json"], capture_output=True, text=True).stdout)["tls"]


def split_weights(directory):
    """The files of a model with its weights in three shards, one of them some hundred KB."""
    files = {}
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            files[name] = file.read()
    weights = files.pop("model.safetensors")
    n = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8:8 + n])
    names = sorted(header)
    weight_map = {}
    for i in range(3):
        name = "model-%05d-of-00003.safetensors" % (i + 1)
        part, blobs, at = {}, [], 0
        for tensor in names[i::3]:
            begin, end = header[tensor]["data_offsets"]
            part[tensor] = {**header[tensor], "data_offsets": [at, at + end - begin]}
            blobs.append(weights[8 + n + begin:8 + n + end])
            at += end - begin
            weight_map[tensor] = name
        if i == 0:  # something that takes its time
            part["padding"] = {"dtype": "U8", "shape": [600000], "data_offsets": [at, at + 600000]}
            blobs.append(bytes(range(256)) * 2343 + bytes(192))
        text = json.dumps(part).encode()
        text += b" " * (-len(text) % 8)
        files[name] = len(text).to_bytes(8, "little") + text + b"".join(blobs)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


FILES = split_weights(model())
UNUSED = {"README.md": b"# tiny", "pytorch_model.bin": b"x" * 1000, "tiny.gguf": b"x" * 1000, "onnx/model.onnx": b"x" * 100,
          "onnx/model.safetensors": b"y" * 100, "consolidated.safetensors": b"z" * 1000, ".gitattributes": b"*"}
BIG = "model-00001-of-00003.safetensors"


class Pull(Case):
    n_started = 0

    def setUp(self):
        Pull.n_started += 1
        self.cache = os.path.join(HERE, "cache%d" % Pull.n_started)
        self.hub = self.start_hub()

    def start_hub(self, **options):
        hub = Hub({**FILES, **UNUSED}, **options)
        self.addCleanup(hub.stop)
        return hub

    def environment(self, **more):
        return {"HF_HUB_CACHE": self.cache, "HF_ENDPOINT": self.hub.endpoint, **more}

    def pull(self, *arguments, name="org/tiny", **more):
        return engine("pull", name, *arguments, environment=self.environment(**more))

    def folder(self, *parts, name="org/tiny"):
        return os.path.join(self.cache, "models--" + name.replace("/", "--"), *parts)

    def check_cache(self):
        """Exactly the wanted files, right in every byte."""
        snapshot = self.folder("snapshots", COMMIT)
        self.assertEqual(sorted(os.listdir(snapshot)), sorted(FILES))
        for name, data in FILES.items():
            link = os.path.join(snapshot, name)
            expected = hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else git_hash(data)
            self.assertEqual(os.readlink(link), "../../blobs/" + expected)
            with open(link, "rb") as file:
                self.assertEqual(file.read(), data)
        self.assertFalse([n for n in os.listdir(self.folder("blobs")) if n.endswith(".incomplete")])
        with open(self.folder("refs", "main")) as file:
            self.assertEqual(file.read(), COMMIT)
        return snapshot

    def test_pull_and_generate(self):
        missing = self.fails(engine("generate", "org/tiny", "-p", "Hi", environment=self.environment()), 1, "org/tiny")
        self.assertIn("hint: fetch it with: engine pull org/tiny\n", missing.err)
        result = self.succeeds(self.pull())
        self.assertEqual(result.out, self.folder("snapshots", COMMIT) + "\n")
        self.assertEqual(len(result.err.splitlines()), 1, result)
        self.assertIn("8 files", result.err)
        self.check_cache()
        answer = self.succeeds(engine("generate", "org/tiny", "-q", "-p", "Hi", "max_new_tokens=1", environment=self.environment()))
        self.assertEqual(answer.out, "A\n")
        before = len(self.hub.requests)
        again = self.succeeds(self.pull())
        self.assertIn("all here already", again.err)
        self.assertFalse([r for r in self.hub.requests[before:] if "/resolve/" in r[1]])
        self.assertEqual(self.succeeds(self.pull("-q")).err, "")

    def test_where_the_cache_is(self):
        for variable, path in [("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"), ("HOME", ".cache/huggingface/hub")]:
            home = os.path.join(self.cache, variable)
            result = self.succeeds(engine("pull", "org/tiny", environment={"HF_ENDPOINT": self.hub.endpoint, variable: home}))
            self.assertEqual(result.out, os.path.join(home, path, "models--org--tiny/snapshots", COMMIT) + "\n")

    def test_huggingface_hub_finds_it(self):
        try:
            import huggingface_hub
        except ImportError:
            self.skipTest("huggingface_hub is not installed")
        self.succeeds(self.pull())
        path = huggingface_hub.snapshot_download("org/tiny", cache_dir=self.cache, local_files_only=True)
        self.assertEqual(os.path.realpath(path), os.path.realpath(self.folder("snapshots", COMMIT)))

    def test_revisions(self):
        for revision, ref in [("refs/pr/1", "refs/refs/pr/1"), (COMMIT, None)]:
            self.succeeds(self.pull("--revision", revision))
            self.assertFalse(os.path.exists(self.folder("refs", "main")))
            if ref:
                self.assertTrue(os.path.isfile(self.folder(ref)))
            self.succeeds(engine("generate", "org/tiny", "--revision", revision, "-p", "x", "max_new_tokens=1", environment=self.environment()))
        self.fails(self.pull("--revision", "none"), 1, "org/tiny at none", "HTTP 404", "Invalid rev id")
        self.fails(self.pull("--revision", "../x"), 1, "--revision")
        self.fails(self.pull("--revision", ""), 1, "--revision")

    def test_connections_that_drop(self):
        self.hub.drop = 0.8
        self.succeeds(self.pull())
        self.check_cache()
        ranges = [r[2]["Range"] for r in self.hub.requests if r[0] == "cdn" and "Range" in r[2]]
        self.assertTrue(ranges, "nothing was continued")

    def test_dropping_without_ranges(self):
        self.hub.no_ranges = True
        self.hub.drop = 0.5
        self.succeeds(self.pull())
        self.check_cache()

    def test_a_busy_server(self):
        self.hub.busy, self.hub.busy_headers = 2, {"Retry-After": "1"}
        begin = time.time()
        self.succeeds(self.pull())
        self.assertGreaterEqual(time.time() - begin, 2)
        self.check_cache()

    def test_a_server_that_stays_busy(self):
        self.hub.busy = 1000
        result = self.fails(self.pull(), 1, "HTTP 503", "tried")
        self.assertFalse(os.path.exists(self.folder("refs")), result)

    def test_no_server(self):
        result = engine("pull", "org/tiny", environment=self.environment(HF_ENDPOINT="http://localhost:1"))
        self.fails(result, 1, "localhost:1: cannot connect: Connection refused")

    def test_resumes_after_kill(self):
        self.hub.slow = 0.05
        for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
            process = subprocess.Popen([ENGINE, "pull", "org/tiny"], env={**ENVIRONMENT, **self.environment()}, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
            begun = self.folder("blobs", hashlib.sha256(FILES[BIG]).hexdigest() + ".incomplete")
            before = os.path.getsize(begun) if os.path.exists(begun) else 0
            end = time.time() + 30
            while not os.path.exists(begun) or os.path.getsize(begun) < before + 70000:
                self.assertLess(time.time(), end)
                time.sleep(0.01)
            process.send_signal(kill)
            out, err = process.communicate()
            self.assertEqual(process.returncode, -kill if kill == signal.SIGKILL else 130, err)
            self.assertEqual(out, b"")
            self.assertFalse(os.path.exists(begun[:-len(".incomplete")]))
            self.assertFalse(os.path.exists(self.folder("refs", "main")))
            result = engine("generate", "org/tiny", "-p", "x", environment=self.environment())
            self.fails(result, 1, "engine pull org/tiny")
        self.assertIn(b"goes on from here", err)
        got = os.path.getsize(begun)
        self.hub.slow = 0
        self.hub.requests.clear()
        self.succeeds(self.pull())
        self.check_cache()
        asked = [r[2].get("Range") for r in self.hub.requests if r[0] == "cdn" and BIG in r[1]]
        self.assertEqual(asked, ["bytes=%d-" % got])

    def test_what_another_program_left(self):
        """A file with holes, as a program leaves it that fetches several parts at once; and one that is too long."""
        os.makedirs(self.folder("blobs"))
        for size in (100000, len(FILES[BIG]), len(FILES[BIG]) + 5):
            with self.subTest(size=size):
                with open(self.folder("blobs", hashlib.sha256(FILES[BIG]).hexdigest() + ".incomplete"), "wb") as file:
                    file.write(b"\xff" * size)
                self.succeeds(self.pull())
                self.check_cache()
                shutil.rmtree(self.folder("snapshots"))
                os.remove(self.folder("blobs", hashlib.sha256(FILES[BIG]).hexdigest()))

    def test_two_at_once(self):
        self.hub.slow = 0.01
        both = [subprocess.Popen([ENGINE, "pull", "org/tiny"], env={**ENVIRONMENT, **self.environment()}, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE) for _ in range(2)]
        for process in both:
            out, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, err)
        self.check_cache()
        self.assertEqual(sum(r[0] == "cdn" and BIG in r[1] for r in self.hub.requests), 1)

    def test_wrong_checksums(self):
        for path in (BIG, "tokenizer.json"):
            with self.subTest(path=path):
                shutil.rmtree(self.cache, ignore_errors=True)
                data = bytearray(FILES[path])
                data[len(data) // 2] ^= 1
                self.hub.changed = {path: bytes(data)}
                self.fails(self.pull(), 1, path, "checksum")
                hashes = {hashlib.sha256(data).hexdigest(), hashlib.sha256(FILES[path]).hexdigest(), git_hash(FILES[path])}
                self.assertFalse([n for n in os.listdir(self.folder("blobs")) if n.split(".")[0] in hashes])
                self.assertFalse(os.path.exists(self.folder("refs", "main")))
        self.hub.changed = {}
        self.succeeds(self.pull())
        self.check_cache()

    def test_other_lengths(self):
        self.hub.changed = {BIG: FILES[BIG] + b"more"}
        self.fails(self.pull(), 1, BIG, "got more")

    def test_paths_that_lead_out(self):
        good = self.hub.listing()
        for path in ("../evil.safetensors", "/etc/config.json", "a/../../config.json", "a//config.json", "./config.json", "..", "", "a\\config.json",
                     "tokenizer\n.json"):
            with self.subTest(path=path):
                self.hub.tree = good + [{"type": "file", "oid": "a" * 40, "size": 1, "path": path}]
                self.fails(self.pull(), 1, "expected a path inside the model")
        self.assertFalse(os.path.exists(self.cache))

    def test_listings_that_are_wrong(self):
        good = self.hub.listing()
        for change, word in [({"size": -1}, "size"), ({"size": 2**50}, "size"), ({"size": "1"}, "size"), ({"oid": "../../x"}, "oid"), ({"oid": None}, "oid"),
                             ({"lfs": {"oid": "a" * 40, "size": 3}}, "oid"), ({"size": 2**31}, "256 MiB")]:
            with self.subTest(change=change):
                self.hub.tree = [{**entry, **change} if entry["path"] == "config.json" else entry for entry in good]
                self.fails(self.pull(), 1, "config.json", word)
        self.hub.tree = {"error": 1}
        self.hub.page = 10
        self.hub.listing = lambda: [5, None, "x"]
        self.fails(self.pull(), 1, "got neither")
        for sha in ("main", "../../../x", "A" * 40, 5, ""):
            self.hub.sha = sha
            self.fails(self.pull(), 1, "sha", "40 hex digits")

    def test_index_that_leads_out(self):
        for name in ("../x.safetensors", "/etc/passwd", "gone.safetensors", 5):
            with self.subTest(name=name):
                self.hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": name}}).encode()
                self.fails(self.pull(), 1, "model.safetensors.index.json", "safetensors")

    def test_no_weights_of_use(self):
        for name in list(self.hub.files):
            if name.startswith("model") or name.endswith("index.json"):
                del self.hub.files[name]
        self.fails(self.pull(), 1, "model.safetensors", "got neither")

    def test_more_than_fits(self):
        self.hub.tree = [{**e, "lfs": {**e["lfs"], "size": 2**43}} if e["path"] == BIG else e for e in self.hub.listing()]
        self.fails(self.pull(), 1, "free space", "HF_HUB_CACHE")

    def test_tokens(self):
        self.hub.token = "hf_secret"
        self.fails(self.pull(), 1, "HTTP 401", "Invalid credentials", "HF_TOKEN")
        self.fails(self.pull(HF_TOKEN="hf_wrong"), 1, "HTTP 401", "accept")
        self.fails(self.pull(HF_TOKEN="hf_x\r\nHost: evil"), 1, "HF_TOKEN")
        self.succeeds(self.pull(HF_TOKEN="hf_secret"))
        self.check_cache()
        shutil.rmtree(self.cache)
        os.makedirs(os.path.join(self.cache, "home"))
        with open(os.path.join(self.cache, "home", "token"), "w") as file:
            file.write("hf_secret\n")
        self.succeeds(self.pull(HF_HOME=os.path.join(self.cache, "home")))
        cdn = [r for r in self.hub.requests if r[0] == "cdn"]
        self.assertTrue(cdn)
        for _, target, headers in cdn:
            self.assertNotIn("Authorization", headers, target)
            self.assertNotIn("hf_secret", str(headers))

    def test_a_model_that_moved(self):
        self.succeeds(self.pull(name="org/old"))
        self.assertTrue(os.path.isfile(self.folder("snapshots", COMMIT, "config.json", name="org/old")))

    def test_redirections(self):
        self.hub.location = self.hub.endpoint + "/org/tiny/resolve/" + COMMIT + "/" + BIG
        self.fails(self.pull(), 1, "redirections")
        for place, word in [("ftp://localhost/x", "http://"), ("http://user:pw@localhost/x", "user"), ("http://local host/x", "address"),
                            ("http://localhost:99999/x", "port")]:
            self.hub.location = place
            self.fails(self.pull(), 1, "redirection", word)

    def test_chunks_and_pages(self):
        self.hub.chunked = True
        self.hub.page = 1
        self.succeeds(self.pull())
        self.check_cache()

    def test_proxy(self):
        proxy = Proxy()
        self.addCleanup(proxy.stop)
        self.succeeds(self.pull(HTTP_PROXY=proxy.address))
        self.check_cache()
        self.assertTrue(any(s.startswith("GET " + self.hub.endpoint + "/api/") for s in proxy.seen), proxy.seen)
        self.assertTrue(any(s.startswith("GET " + self.hub.cdn_origin) for s in proxy.seen), proxy.seen)
        proxy.seen.clear()
        for no_proxy in ("localhost", "*", "example.org, .localhost"):
            self.succeeds(self.pull(HTTP_PROXY=proxy.address, NO_PROXY=no_proxy))
        self.assertEqual(proxy.seen, [])
        for wrong in ("https://localhost:1", "socks5://localhost:1", "http://"):
            self.fails(self.pull(HTTP_PROXY=wrong), 1, "HTTP_PROXY")

    def test_command_line(self):
        self.fails(engine("pull"), 2, "MODEL is missing")
        self.fails(engine("pull", "org/tiny", "x"), 2, "unexpected argument")
        self.fails(self.pull("--connections", "0"), 2, "--connections")
        self.fails(self.pull(name="../x"), 1, "Hub id")
        self.fails(self.pull(HF_HUB_OFFLINE="1"), 1, "HF_HUB_OFFLINE")
        self.fails(self.pull(HF_ENDPOINT="localhost"), 1, "HF_ENDPOINT")
        self.succeeds(self.pull("--connections", "1"))
        self.check_cache()

    def test_a_cache_that_cannot_be_written(self):
        blocked = os.path.join(HERE, "file%d" % Pull.n_started)
        open(blocked, "w").close()
        self.fails(self.pull(HF_HUB_CACHE=blocked), 1, blocked, "HF_HUB_CACHE")

    def test_answers_that_are_not_http(self):
        import socket
        import threading
        for answer in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
                       b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100000, b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                       b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                       b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", b"HTTP/1.1 100 Continue\r\n\r\n" * 20, b""):
            with self.subTest(answer=answer[:60]):
                listener = socket.create_server(("127.0.0.1", 0))

                def serve():
                    try:
                        while True:
                            connection = listener.accept()[0]
                            connection.recv(65536)
                            connection.sendall(answer)
                            connection.close()
                    except OSError:
                        pass

                threading.Thread(target=serve, daemon=True).start()
                started = time.time()
                self.fails(engine("pull", "org/tiny", environment=self.environment(HF_ENDPOINT="http://localhost:%d" % listener.getsockname()[1])), 1, "localhost")
                self.assertLess(time.time() - started, 30)
                listener.close()


@unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
class Https(Pull):
    """All of the above over TLS, and what only TLS can do."""

    @classmethod
    def setUpClass(cls):
        if not TLS:
            raise unittest.SkipTest("built without TLS")
        cls.certificate = make_certificate(HERE)
        cls.other = make_certificate(HERE, "example.org")

    def start_hub(self, **options):
        return super().start_hub(**{"certificate": self.certificate, **options})

    def environment(self, **more):
        return super().environment(**{"SSL_CERT_FILE": self.certificate[0], **more})

    def test_certificates(self):
        self.fails(self.pull(SSL_CERT_FILE=self.other[0]), 1, "certificate", "trust")
        self.fails(self.pull(SSL_CERT_FILE=os.path.join(HERE, "none.pem")), 1, "SSL_CERT_FILE")
        self.fails(self.pull(SSL_CERT_FILE="", SSL_CERT_DIR=os.path.join(HERE, "none")), 1, "SSL_CERT_DIR")
        folder = os.path.join(HERE, "certificates%d" % Pull.n_started)
        os.makedirs(folder)
        shutil.copy(self.certificate[0], folder)
        self.succeeds(self.pull(SSL_CERT_FILE="", SSL_CERT_DIR=folder))
        self.hub = self.start_hub(certificate=self.other)
        self.fails(self.pull(SSL_CERT_FILE=self.other[0]), 1, "certificate", "not match")

    def test_downgrade(self):
        self.hub.location = "http://localhost:1/x"
        self.fails(self.pull(), 1, "expected a redirection to https")

    def test_plain_server_in_its_place(self):
        plain = super().start_hub(certificate=None)
        self.fails(self.pull(HF_ENDPOINT=plain.endpoint.replace("http:", "https:")), 1, "TLS", "handshake")

    def test_proxy(self):
        proxy = Proxy("me:secret word")
        self.addCleanup(proxy.stop)
        address = proxy.address.replace("secret word", "secret%20word")
        self.succeeds(self.pull(HTTPS_PROXY=address))
        self.check_cache()
        self.assertIn("CONNECT " + self.hub.endpoint.split("/")[2], proxy.seen)
        self.assertIn("CONNECT " + self.hub.cdn_origin.split("/")[2], proxy.seen)
        self.fails(self.pull(HTTPS_PROXY=proxy.address.replace("me:secret word@", "")), 1, "proxy", "407")

    def test_answers_that_are_not_http(self):
        pass  # the same code

    test_a_server_that_stays_busy = test_where_the_cache_is = test_no_server = test_command_line = test_answers_that_are_not_http


@unittest.skipIf(TLS, "built with TLS")
class WithoutTls(Case):
    def test_refused(self):
        self.fails(engine("pull", "org/tiny", environment={"HF_ENDPOINT": "https://localhost:1"}), 1, "https://localhost", "-Dtls")


if __name__ == "__main__":
    main()
