"""deploy/nginx.conf with Debian's nginx in front of two engines."""
import json
import os
import shutil
import socket
import subprocess
import time
import unittest
import http.client

import server as s


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@unittest.skipUnless(shutil.which("nginx"), "nginx is not here")
class Balancer(unittest.TestCase):
    def ask(self, session, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=s.TIMEOUT)
        body = {"messages": [{"role": "user", "content": "hello"}], **fields}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json", "X-Session": session})
        response = connection.getresponse()
        return response.status, response.read().decode()

    def test_sessions_stay_and_engines_may_go(self):
        engines = [s.Server(s.alphabet_model()) for _ in range(2)]
        self.port = free_port()
        folder = os.path.join(s.SCRATCH, "nginx")
        os.makedirs(folder)
        with open(os.path.join(s.HERE, "..", "..", "deploy", "nginx.conf")) as file:
            text = file.read()
        for old, new in (("8001", engines[0].port), ("8002", engines[1].port), ("listen 8080", f"listen 127.0.0.1:{self.port}")):
            self.assertIn(old, text)
            text = text.replace(old, str(new))
        with open(os.path.join(folder, "nginx.conf"), "w") as file:
            paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            file.write(f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ access_log off; {paths}\n{text}\n}}")
        nginx = subprocess.Popen(["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf"), "-e", os.path.join(folder, "error.log")])
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", self.port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            sessions = [f"session-{i}" for i in range(12)]
            for session in sessions:
                counts = [e.metric("answers_finished_total") for e in engines]
                for _ in range(3):
                    self.assertEqual(self.ask(session)[0], 200)
                grown = [e.metric("answers_finished_total") - before for e, before in zip(engines, counts)]
                self.assertIn(grown, ([3, 0], [0, 3]))
            self.assertTrue(all(e.metric("answers_finished_total") > 0 for e in engines))
            status, text = self.ask("session-1", stream=True)
            self.assertEqual((status, text.endswith("data: [DONE]\n\n")), (200, True))
            self.assertEqual(engines[0].stop(), 0)
            self.assertEqual([self.ask(session)[0] for session in sessions], [200] * len(sessions))
        finally:
            nginx.terminate()
            nginx.wait()
            for engine in engines:
                if engine.process.poll() is None:
                    engine.stop()


if __name__ == "__main__":
    s.run("__main__")
