"""A Hugging Face Hub of our own, for tests: the API's two calls, files, redirections to a second host that stands for the CDN. Faults on demand."""
import base64
import hashlib
import http.client
import http.server
import json
import os
import random
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass


class QuietHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


class Hub:
    """`files`: path -> bytes of the model `org/tiny`. Those of *.safetensors count as LFS and are served by the CDN. All requests are kept in
    `requests` as (server, target, headers)."""

    @classmethod
    def of(cls, directory, **options):
        """Of the files of a model directory."""
        files = {}
        for name in os.listdir(directory):
            with open(os.path.join(directory, name), "rb") as file:
                files[name] = file.read()
        return cls(files, **options)

    def __init__(self, files, certificate=None):
        self.files = dict(files)
        self.lock = threading.Lock()
        self.requests = []
        self.random = random.Random(1)
        self.drop = 0.0            # chance that a CDN answer ends after a random part
        self.no_ranges = False
        self.slow = 0.0            # seconds between pieces of 16 KB
        self.page = 3              # files a page
        self.token = None          # asked for by the API
        self.busy = 0              # how many times to say 503 first
        self.busy_headers = {}
        self.changed = {}          # path -> bytes served in place of the right ones
        self.tree = None           # replaces the listing
        self.sha = COMMIT
        self.location = None       # replaces where the files' redirections lead
        self.commits = {"main": COMMIT, "refs/pr/1": COMMIT, COMMIT: COMMIT}
        self.chunked = False
        self.api = self._start("api", self._answer_api, certificate)
        self.cdn = self._start("cdn", self._answer_cdn, certificate)
        scheme = "https" if certificate else "http"
        self.endpoint = "%s://localhost:%d" % (scheme, self.api.server_port)
        self.cdn_origin = "%s://localhost:%d" % (scheme, self.cdn.server_port)

    def _start(self, name, answer, certificate):
        hub = self

        class Handler(QuietHandler):
            def do_GET(self):
                with hub.lock:
                    hub.requests.append((name, self.path, dict(self.headers)))
                try:
                    answer(self)
                except (ConnectionError, ssl.SSLError):
                    self.close_connection = True

        server = QuietServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # The handshake belongs to the connection's own thread, or one bad client would stop all.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def stop(self):
        for server in (self.api, self.cdn):
            server.shutdown()
            server.server_close()

    def send(self, handler, status, body=b"", headers=None):
        handler.send_response(status)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def send_json(self, handler, value, headers=None):
        body = json.dumps(value).encode()
        if not self.chunked:
            return self.send(handler, 200, body, {"Content-Type": "application/json", **(headers or {})})
        handler.send_response(200)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(body), 100):
            handler.wfile.write(b"%x;x=y\r\n%s\r\n" % (len(body[i:i + 100]), body[i:i + 100]))
        handler.wfile.write(b"0\r\nTrailer: x\r\n\r\n")

    def listing(self):
        if self.tree is not None:
            return self.tree
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "onnx"}]
        for path, data in sorted(self.files.items()):
            entry = {"type": "file", "oid": git_hash(data), "size": len(data), "path": path}
            if path.endswith((".safetensors", ".bin", ".gguf")):
                entry["oid"] = git_hash(b"pointer")
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def _answer_api(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        with self.lock:
            if self.busy > 0:
                self.busy -= 1
                return self.send(handler, 503, b"busy", self.busy_headers)
        if self.token and handler.headers.get("Authorization") != "Bearer " + self.token:
            return self.send(handler, 401, b"no", {"X-Error-Message": "Invalid credentials"})
        parts = url.path.split("/")
        if url.path.startswith("/api/models/org/old/"):
            return self.send(handler, 307, b"moved", {"Location": handler.path.replace("org/old", "org/tiny")})
        if url.path.startswith("/api/models/org/tiny/revision/"):
            commit = self.commits.get(urllib.parse.unquote(parts[-1]))
            if commit is None:
                return self.send(handler, 404, b"{}", {"X-Error-Message": "Invalid rev id"})
            return self.send_json(handler, {"sha": self.sha, "id": "org/tiny"})
        if url.path.startswith("/api/models/org/tiny/tree/") and parts[-1] == COMMIT:
            entries, begin = self.listing(), int(urllib.parse.parse_qs(url.query).get("cursor", ["0"])[0])
            headers = {}
            if begin + self.page < len(entries):
                headers["Link"] = '<%s%s?recursive=true&cursor=%d>; rel="next"' % (self.endpoint, url.path, begin + self.page)
            return self.send_json(handler, entries[begin:begin + self.page], headers)
        for name in ("org/tiny", "org/old"):
            prefix = "/%s/resolve/%s/" % (name, COMMIT)
            if not url.path.startswith(prefix):
                continue
            path = urllib.parse.unquote(url.path[len(prefix):])
            if path not in self.files:
                break
            if path.endswith(".safetensors"):
                place = self.location or self.cdn_origin + "/signed/" + urllib.parse.quote(path) + "?Policy=a~b_c%2Fd+e&Signature=x%3D%3d"
                return self.send(handler, 302, b"Found. Redirecting", {"Location": place})
            return self.send(handler, 200, self.changed.get(path, self.files[path]))
        self.send(handler, 404, b"{}", {"X-Error-Message": "Repository not found"})

    def _answer_cdn(self, handler):
        path = urllib.parse.unquote(urllib.parse.urlsplit(handler.path).path[len("/signed/"):])
        data = self.changed.get(path, self.files.get(path))
        if data is None or not handler.path.endswith("?Policy=a~b_c%2Fd+e&Signature=x%3D%3d"):
            return self.send(handler, 403, b"wrong signature")
        begin, asked = 0, handler.headers.get("Range")
        if asked and not self.no_ranges:
            begin = int(asked[len("bytes="):].rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes %d-%d/%d" % (begin, len(data) - 1, len(data)))
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) - begin))
        handler.end_headers()
        end = len(data)
        with self.lock:
            if self.random.random() < self.drop:
                end = begin + self.random.randrange(20000, 120000)
        for at in range(begin, min(end, len(data)), 16384):
            handler.wfile.write(data[at:min(at + 16384, end, len(data))])
            if self.slow:
                time.sleep(self.slow)
        if end < len(data):
            handler.close_connection = True
            handler.connection.shutdown(2)


class Proxy:
    """Forwards GETs in absolute form and opens tunnels; notes what was asked, and asks for `user` if given."""

    def __init__(self, user=None):
        proxy = self
        self.seen = []

        class Handler(QuietHandler):
            def allowed(self):
                wanted = user and "Basic " + base64.b64encode(user.encode()).decode()
                if not wanted or self.headers.get("Proxy-Authorization") == wanted:
                    return True
                self.send_response(407)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return False

            def do_GET(self):
                proxy.seen.append("GET " + self.path)
                if not self.allowed():
                    return
                url = urllib.parse.urlsplit(self.path)
                connection = http.client.HTTPConnection(url.hostname, url.port)
                headers = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
                connection.request("GET", url.path + ("?" + url.query if url.query else ""), headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self):
                proxy.seen.append("CONNECT " + self.path)
                if not self.allowed():
                    return
                host, port = self.path.rsplit(":", 1)
                other = socket.create_connection((host, int(port)))
                self.send_response(200)
                self.end_headers()

                def copy(source, target):
                    try:
                        while data := source.recv(65536):
                            target.sendall(data)
                    except OSError:
                        pass
                    try:
                        target.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass

                thread = threading.Thread(target=copy, args=(self.connection, other), daemon=True)
                thread.start()
                copy(other, self.connection)
                self.close_connection = True

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.address = "http://%slocalhost:%d" % (user + "@" if user else "", self.server.server_port)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def make_certificate(folder, name="localhost"):
    """A certificate that signs itself, for `name`: (certificate, key)."""
    certificate, key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
                    "-out", certificate, "-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:" + name], check=True, capture_output=True)
    return certificate, key
