"""What the server refuses, outlasts and survives."""
import http.client
import json
import os
import signal
import socket
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import server as s

USER = [{"role": "user", "content": "hello"}]
LONG = {"prompt": "a", "max_tokens": 100000, "stream": True}


def head(*lines, body=b""):
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def statuses(data):
    return [int(part[:3]) for part in data.decode("latin-1").split("HTTP/1.1 ")[1:]]


class Limits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = s.Server(s.alphabet_model(), "--max-body", "256K", "--read-timeout", "2", "--max-connections", "40")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def tearDown(self):
        status, body = self.server.chat()  # nothing may have broken it
        self.assertEqual((status, body["choices"][0]["message"]["content"]), (200, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))

    def post_raw(self, body, *headers):
        return statuses(self.server.raw(head("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json",
                                             f"Content-Length: {len(body)}", "Connection: close", *headers, body=body)))

    def test_json(self):
        good = json.dumps({"messages": USER}).encode()
        self.assertEqual(self.post_raw(good), [200])
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b'{"messages": [{"role": "user", "content": "\xff"}]}',
                     b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": NaN}', b'{"temperature": 1e999, "messages": []}',
                     b'{"temperature": NaN}', b'{"messages": [], "messages": []}', good[:-1], good + b"x"):
            self.assertEqual(self.post_raw(body), [400], body[:50])

    def test_json_depth(self):
        for depth, expected in ((250, 200), (100_000 // 2, 400)):
            deep = b"[" * depth + b"]" * depth
            self.assertEqual(self.post_raw(b'{"messages": [{"role": "user", "content": "x"}], "metadata": ' + deep + b"}"), [expected], depth)

    def test_json_values(self):
        for n, expected in ((100_000, 200), (126_000, 200)):
            self.assertEqual(self.post_raw(b'{"messages": [{"role": "user", "content": "x"}], "metadata": [' + b"1," * n + b"1]}"), [expected], n)
        with s.Server(s.alphabet_model(), "--max-body", "2M") as server:
            for n, expected in ((300_000, 200), (300_001, 400)):
                status, body = server.request("POST", "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "metadata": [' + b"1," * (n - 7) + b"1]}")[::2]
                self.assertEqual(status, expected, (n, body[:200]))

    def test_body_size(self):
        limit = 256 * 1024
        body = json.dumps({"messages": [{"role": "user", "content": ""}]})
        for size, expected in ((limit, 400), (limit + 1, 413)):  # 400: more tokens than the context
            data = body.replace('""', '"' + "x" * (size - len(body)) + '"').encode()
            self.assertEqual(len(data), size)
            self.assertEqual(self.post_raw(data), [expected], size)
        chunked = head("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked")
        self.assertEqual(statuses(self.server.raw(chunked + b"%x\r\n" % (limit + 1) + b"x" * (limit + 1) + b"\r\n0\r\n\r\n")), [413])
        self.assertEqual(statuses(self.server.raw(head("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json",
                                                       "Content-Length: 99999999999999999"))), [413])

    def test_bodies_of_all_requests(self):
        # 64 MB in all: 16 clients that have announced 4 MB each, then no more until one has left.
        with s.Server(s.alphabet_model(), "--max-body", "4M") as server:
            lines = head("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {4 << 20}", body=b"{")
            clients = []
            for _ in range(16):
                clients.append(socket.create_connection(("127.0.0.1", server.port)))
                clients[-1].sendall(lines)
            time.sleep(0.5)
            refused = server.raw(lines)
            self.assertEqual(statuses(refused), [503])
            self.assertIn(b"Retry-After: 1", refused)
            self.assertEqual(server.get("/health")[0], 200)
            clients.pop().close()
            deadline = time.time() + 20
            while server.chat()[0] != 200 and time.time() < deadline:
                time.sleep(0.05)
            self.assertEqual(server.chat()[0], 200)
            for client in clients:
                client.close()

    def test_counts(self):
        def chat(**fields):
            return self.server.post("/v1/chat/completions", {"messages": USER, "max_tokens": 1, **fields})[0]

        self.assertEqual([chat(stop=["q"] * n) for n in (16, 17)], [200, 400])
        self.assertEqual([chat(stop="q" * n) for n in (256, 257)], [200, 400])
        self.assertEqual([chat(n=n) for n in (16, 17)], [200, 400])
        self.assertEqual([chat(logprobs=True, top_logprobs=n) for n in (20, 21)], [200, 400])
        with s.Server(s.alphabet_model(), "--ctx", "100000") as server:
            for n, expected in ((4096, 200), (4097, 400)):
                status, body = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * n, "max_tokens": 1})
                self.assertEqual(status, expected, str(body)[:200])
        self.assertEqual([self.server.post("/v1/completions", {"prompt": ["a"] * n, "max_tokens": 1})[0] for n in (16, 17)], [200, 400])
        self.assertEqual([chat(logit_bias={str(i): 0 for i in range(n)}) for n in (259, 260)], [200, 400])

    def test_headers(self):
        def get(*lines):
            return statuses(self.server.raw(head("GET /health HTTP/1.1", "Host: localhost", "Connection: close", *lines)))

        self.assertEqual(get(*[f"X-{i}: 1" for i in range(98)]), [200])
        self.assertEqual(get(*[f"X-{i}: 1" for i in range(99)]), [400])
        self.assertEqual(get(*[f"X-{i}: 1" for i in range(100_000)]), [400])
        self.assertEqual(get("X-A: " + "a" * 8000), [200])
        self.assertEqual(get("X-A: " + "a" * 9000), [400])
        self.assertEqual(statuses(self.server.raw(head("GET /" + "a" * 9000 + " HTTP/1.1", "Host: localhost"))), [414])

    def test_smuggling(self):
        hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        post = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        cases = {
            "both lengths": head(*post, "Content-Length: 6", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden),
            "two lengths": head(*post, "Content-Length: 2", "Content-Length: 5", body=b"{}" + hidden),
            "a negative length": head(*post, "Content-Length: -1", body=hidden),
            "a signed length": head(*post, "Content-Length: +2", body=b"{}" + hidden),
            "a list of lengths": head(*post, "Content-Length: 2, 2", body=b"{}" + hidden),
            "another coding": head(*post, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + hidden),
            "two codings": head(*post, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + hidden),
            "a negative chunk": head(*post, "Transfer-Encoding: chunked", body=b"-2\r\nab\r\n0\r\n\r\n" + hidden),
            "a huge chunk": head(*post, "Transfer-Encoding: chunked", body=b"ffffffffffffffff1\r\nab\r\n0\r\n\r\n" + hidden),
            "no length": head(*post, body=hidden),
            "a GET with a body": head("GET /health HTTP/1.1", "Host: localhost", f"Content-Length: {len(hidden)}", body=hidden),
            "a chunked GET": head("GET /health HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden),
            "bare line feeds": b"GET /health HTTP/1.1\nHost: localhost\n\n" + hidden,
            "a bare line feed in a header": b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n" + hidden,
            "two hosts": head("GET /health HTTP/1.1", "Host: localhost", "Host: other", body=hidden),
            "no host": head("GET /health HTTP/1.1", "X: y", body=hidden),
            "a NUL": head("GET /health HTTP/1.1", "Host: localhost", "X: a\0b", body=hidden),
            "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n" + hidden,
        }
        for name, data in cases.items():
            got = statuses(self.server.raw(data, timeout=10))
            self.assertTrue(len(got) <= 1 and all(400 <= status < 500 for status in got), (name, got))

    def test_pipelined_requests_are_answered_in_order(self):
        one = head("GET /health HTTP/1.1", "Host: localhost")
        last = head("GET /health HTTP/1.1", "Host: localhost", "Connection: close")
        self.assertEqual(statuses(self.server.raw(one + one + last)), [200, 200, 200])

    def test_slow_writer(self):
        began = time.time()
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.settimeout(20)
            try:
                connection.sendall(b"GET /health HT")
                for _ in range(40):  # a byte now and then must not keep it alive
                    time.sleep(0.2)
                    connection.sendall(b"x")
            except OSError:
                pass
            s.read_all(connection)
        self.assertLess(time.time() - began, 6)

    def test_slow_body(self):
        began = time.time()
        got = self.server.raw(head("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 100", body=b"{"))
        self.assertEqual(statuses(got), [400])
        self.assertLess(time.time() - began, 6)

    def test_hosts_and_origins(self):
        def get(host, **headers):
            return self.server.request("GET", "/v1/models", headers={"Host": host, **headers})[0]

        self.assertEqual([get(h) for h in ("localhost", "127.0.0.1:8000", "[::1]:1", "192.168.1.5", "LOCALHOST:1")], [200] * 5)
        self.assertEqual([get(h) for h in ("evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example")], [421] * 4)
        self.assertEqual(get("localhost", Origin="http://evil.example"), 403)
        self.assertEqual(get("localhost:1", Origin="http://localhost:1"), 200)
        self.assertEqual(get("localhost", Origin="null"), 403)
        _, headers, _ = self.server.request("GET", "/v1/models")
        self.assertFalse([h for h in headers if h.lower().startswith("access-control")])
        self.assertEqual(self.server.request("OPTIONS", "/v1/models")[0], 405)

    def test_content_type_methods_paths(self):
        for kind, expected in (("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=x", 415),
                               ("application/json; charset=utf-8", 200)):
            self.assertEqual(self.server.request("POST", "/v1/chat/completions", json.dumps({"messages": USER}), {"Content-Type": kind})[0], expected, kind)
        status, headers, _ = self.server.request("GET", "/v1/chat/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        self.assertEqual([self.server.request("GET", p)[0] for p in ("/nothing", "/../etc/passwd", "/%2e%2e/x", "//")], [404] * 4)
        status, headers, text = self.server.request("HEAD", "/health")
        self.assertEqual((status, text), (200, ""))

    def test_many_connections(self):
        sockets = [socket.create_connection(("127.0.0.1", self.server.port)) for _ in range(60)]
        time.sleep(0.3)
        refused = 0
        for connection in sockets:
            connection.settimeout(0.05)
            refused += b"503" in s.read_all(connection)[:20]
            connection.close()
        self.assertGreaterEqual(refused, 20)
        deadline = time.time() + 10
        while time.time() < deadline:
            try:
                if self.server.get("/health")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        self.fail("the server did not come back")


class Lifecycle(unittest.TestCase):
    def wait_for(self, condition, seconds=20):
        deadline = time.time() + seconds
        while time.time() < deadline:
            if condition():
                return
            time.sleep(0.02)
        self.fail("it did not come to that")

    def open_stream(self, server, body=LONG):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=s.TIMEOUT)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        return connection, response

    def test_disconnect_cancels(self):
        with s.Server(s.alphabet_model(), "--parallel", "1", "--ctx", "4000000") as server:
            connection, response = self.open_stream(server)
            response.read(100)
            waiting, _ = self.open_stream(server)  # queued behind it
            plain = socket.create_connection(("127.0.0.1", server.port))
            body = json.dumps({**LONG, "stream": False}).encode()
            plain.sendall(head("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body))
            self.wait_for(lambda: server.metric("waiting") == 2)
            waiting.sock.close() if waiting.sock else None
            waiting.close()
            plain.close()
            self.wait_for(lambda: server.metric("waiting") == 0)
            self.assertEqual(server.metric("running"), 1)
            response.close()
            connection.close()
            self.wait_for(lambda: server.metric("running") == 0)
            self.assertEqual(server.metric("answers_cancelled_total"), 3)
            self.assertEqual(server.chat()[0], 200)

    def test_slow_reader(self):
        # Takes the head of an endless answer and then nothing: neither memory nor the slot may be held for it.
        with s.Server(s.alphabet_model(), "--parallel", "1", "--ctx", "4000000", "--read-timeout", "1") as server:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            body = json.dumps({**LONG, "max_tokens": 3_000_000, "logprobs": 5}).encode()
            connection.sendall(head("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body))
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 200"))
            self.assertEqual(server.metric("running"), 1)
            self.wait_for(lambda: server.metric("running") == 0, 50)
            self.assertEqual(server.metric("answers_cancelled_total"), 1)
            self.assertEqual(server.chat()[0], 200)
            connection.close()

    def test_full_queue(self):
        with s.Server(s.alphabet_model(), "--parallel", "1", "--queue", "1", "--ctx", "4000000") as server:
            streams = [self.open_stream(server) for _ in range(2)]
            status, headers, text = server.request("POST", "/v1/chat/completions", {"messages": USER})
            self.assertEqual((status, headers.get("Retry-After")), (503, "1"), text)
            self.assertEqual(json.loads(text)["error"]["code"], "overloaded")
            comment = streams[1][1].read(200)
            self.assertIn(b": queue 1\n\n", comment)
            for connection, response in streams:
                response.close()
                connection.close()
            self.wait_for(lambda: server.metric("running") == 0)
            self.assertEqual(server.chat()[0], 200)
            self.assertEqual(server.chat(n=3)[0], 400)

    def test_deadline(self):
        with s.Server(s.alphabet_model(), "--parallel", "1", "--ctx", "4000000") as server:
            status, body = server.post("/v1/completions", {**LONG, "stream": False, "max_time": 0.3})
            self.assertEqual((status, body["choices"][0]["finish_reason"]), (200, "length"))
            connection, response = self.open_stream(server)
            status, body = server.post("/v1/completions", {"prompt": "a", "max_time": 0.3})  # never gets its turn
            self.assertEqual((status, body["error"]["code"]), (504, "timeout"))
            response.close()
            connection.close()

    def test_continuous_batching(self):
        with s.Server(s.alphabet_model(), "--parallel", "2", "--ctx", "4000000") as server:
            connection, response = self.open_stream(server)
            response.read(100)
            self.assertEqual(server.chat()[1]["choices"][0]["finish_reason"], "stop")  # beside the endless one
            self.wait_for(lambda: server.metric("running") == 1)
            response.close()
            connection.close()

    def test_drain(self):
        server = s.Server(s.alphabet_model(), "--drain", "20")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.post, "/v1/completions", {"prompt": "a", "max_tokens": 4000})
            self.wait_for(lambda: server.metric("running") == 1 or answer.done())
            idle = http.client.HTTPConnection("127.0.0.1", server.port)
            idle.request("GET", "/health")
            idle.getresponse().read()  # kept alive
            server.process.send_signal(signal.SIGTERM)
            status, body = answer.result()
            self.assertEqual((status, body["usage"]["completion_tokens"]), (200, 4000))
            self.assertEqual(server.process.wait(20), 0)

    def test_drain_ends(self):
        server = s.Server(s.alphabet_model(), "--drain", "1", "--ctx", "4000000")
        connection, response = self.open_stream(server)
        response.read(100)
        began = time.time()
        server.process.send_signal(signal.SIGTERM)
        text = response.read()
        self.assertIn(b'"finish_reason":"length"', text)
        self.assertTrue(text.endswith(b"data: [DONE]\n\n"))
        self.assertEqual(server.process.wait(20), 0)
        self.assertLess(time.time() - began, 8)

    def test_keys(self):
        path = os.path.join(s.SCRATCH, "keys")
        with open(path, "w") as file:
            file.write("# comment\nfirst-key\n")
        with s.Server(s.alphabet_model(), "--api-key-file", path) as server:
            def status(key):
                return server.request("GET", "/v1/models", headers={"Authorization": key} if key else {})[0]

            self.assertEqual([status(k) for k in (None, "Bearer first-key", "Bearer first-kex", "Bearer first-key2", "first-key", "Bearer ", "Basic first-key")],
                             [401, 200, 401, 401, 401, 401, 401])
            self.assertEqual([server.get("/health")[0], server.get("/")[0], server.get("/metrics")[0]], [200, 200, 401])
            with open(path, "w") as file:
                file.write("second-key\n")
            server.process.send_signal(signal.SIGHUP)
            self.wait_for(lambda: status("Bearer second-key") == 200)
            self.assertEqual(status("Bearer first-key"), 401)
            os.remove(path)
            server.process.send_signal(signal.SIGHUP)
            self.wait_for(lambda: any("error" in line for line in server.log if line["event"] == "keys"))
            self.assertEqual(status("Bearer second-key"), 200)

    def test_unix_socket(self):
        path = os.path.join(s.SCRATCH, "engine.sock")
        for _ in range(2):  # the second time the socket file of a killed server is there
            server = s.Server(s.alphabet_model(), host="unix:" + path)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(head("GET /health HTTP/1.1", "Host: anything", "Connection: close"))
                self.assertEqual(statuses(s.read_all(connection)), [200])
            server.process.kill()
            server.process.wait()
        self.assertTrue(os.path.exists(path))
        with s.Server(s.alphabet_model(), host="unix:" + path):
            with self.assertRaises(RuntimeError):
                s.Server(s.alphabet_model(), host="unix:" + path)
        self.assertFalse(os.path.exists(path))

    def test_cors(self):
        with s.Server(s.alphabet_model(), "--cors", "https://page.example") as server:
            status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://page.example"})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Methods"]), (204, "https://page.example", "POST"))
            status, headers, _ = server.request("POST", "/v1/chat/completions", {"messages": USER}, {"Origin": "https://page.example"})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "https://page.example"))
            self.assertEqual(server.request("GET", "/v1/models", headers={"Origin": "https://other.example"})[0], 403)

    def test_idle_costs_nothing(self):
        with s.Server(s.alphabet_model(), threads=2) as server:
            server.chat()
            time.sleep(1)

            def cpu():
                fields = open(f"/proc/{server.process.pid}/stat").read().rsplit(")", 1)[1].split()
                return int(fields[11]) + int(fields[12])

            before = cpu()
            time.sleep(2)
            self.assertLessEqual(cpu() - before, 1)  # a hundredth of a second at most

    def test_bad_command_lines(self):
        for arguments in (["--port", "70000"], ["--host", "no.such.name"], ["--api-key", "sp ace"], ["--api-key-file", "/nowhere"], ["--log", "xml"]):
            with self.assertRaises(RuntimeError, msg=arguments):
                s.Server(s.alphabet_model(), *arguments)


if __name__ == "__main__":
    s.run("__main__")
