"""Many clients, a third of which leave at a random moment and a tenth of which send nonsense: soak.py [REQUESTS] [CONNECTIONS] [SEED]

Ends with what was answered, refused and cut off, the server's memory before and after, and whether eight clean requests get the bytes they got
before. Exits 1 if anything crashed, hung, leaked or changed."""
import collections
import http.client
import json
import random
import resource
import socket
import sys
import threading
import time

import server as s
from sanitized import SANITIZED

SECONDS_A_REQUEST = 60  # its deadline, with time to spare for the machine
ADDRESS_SPACE = 3 << 30  # bytes, of this program and the server's: 32 threads' stacks take 8 MB each of it, but touch little
CLEAN = [{"messages": [{"role": "user", "content": f"question {i} " * (i + 1)}], "max_tokens": 24, "seed": i, "temperature": i % 2} for i in range(8)]
NONSENSE = [b"", b"{", b"\x00\xff", b'{"messages": 5}', b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 5000, b'{"n": 99, "messages": []}']


def resident(server):
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def one(server, random_, counts):
    kind = random_.random()
    stream = random_.random() < 0.5
    body = {"messages": [{"role": "user", "content": random_.choice("abcdefgh") * random_.randrange(1, 200)}], "stream": stream,
            "max_tokens": random_.randrange(1, 60), "temperature": random_.choice([0, 1]), "n": random_.choice([1, 1, 1, 2])}
    data = random_.choice(NONSENSE) if kind < 0.1 else json.dumps(body).encode()
    leaves = kind > 0.67
    began = time.time()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS_A_REQUEST)
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        if leaves:
            moment = random_.random()
            if moment < 0.5:
                time.sleep(random_.random() * 0.05)
            else:
                connection.sock.settimeout(SECONDS_A_REQUEST)
                connection.sock.recv(random_.randrange(1, 500))
            connection.close()
            counts["left"] += 1
            return
        response = connection.getresponse()
        text = response.read()
        if response.status == 200 and stream and not text.endswith(b"data: [DONE]\n\n"):
            counts["broken stream"] += 1
        counts[f"status {response.status}"] += 1
        connection.close()
    except socket.timeout:
        counts["hung"] += 1
    except (OSError, http.client.HTTPException) as error:
        counts["lost: " + type(error).__name__] += 1
    if time.time() - began > SECONDS_A_REQUEST:
        counts["late"] += 1


def ask_clean(server):
    out = []
    for request in CLEAN:
        status, body = server.post("/v1/chat/completions", request)
        assert status == 200, body
        out.append(json.dumps(body["choices"]))
    return out


def flood(server, n, n_connections, seed):
    counts, lock, left = collections.Counter(), threading.Lock(), [n]

    def client(number):
        random_ = random.Random(seed * 1000 + number)
        while True:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            mine = collections.Counter()
            one(server, random_, mine)
            with lock:
                counts.update(mine)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def settle(server):
    for _ in range(600):
        if server.metric("running") == 0 and server.metric("waiting") == 0:
            return True
        time.sleep(0.05)
    return False


def main():
    # A hard end to what it may have, beside --mem: program, stacks of its threads and all.
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    n, n_connections, seed = (int(a) for a in (sys.argv[1:] + ["10000", "32", "1"][len(sys.argv) - 1:]))
    problems = []
    with s.Server(s.random_model(), "--parallel", "8", "--queue", "40", "--mem", "4M") as server:
        before = ask_clean(server)
        flood(server, max(n, 5000), n_connections, seed + 1)  # caches and heaps reach their size
        settle(server)
        rss, kv = resident(server), server.metric("kv_bytes")
        began = time.time()
        counts = flood(server, n, n_connections, seed)
        took = time.time() - began
        if not settle(server):
            problems.append("a slot is wedged")
        # The prefix cache may grow as far as --mem lets it.
        kv = server.metric("kv_bytes") - kv
        grown = (resident(server) - kv) / rss - 1
        if ask_clean(server) != before:
            problems.append("clean requests got other bytes than before")
        if server.process.poll() is not None:
            problems.append("the server has ended")
        elif server.stop() != 0:
            problems.append("the server did not end well")
    problems += [f"{key}: {count}" for key, count in counts.items() if key.split(":")[0] in ("hung", "late", "lost", "broken stream") or key == "status 500"]
    # Of a server this small two hundredths are a few pages of malloc's: half a megabyte passes in any case.
    # A sanitizer keeps what was freed for a while, and looks for leaks by itself.
    if grown > max(0.02, 2**19 / rss) and not SANITIZED:
        problems.append("memory grew")
    print(f"{n} requests from {n_connections} connections in {took:.0f} s: {dict(sorted(counts.items()))}")
    print(f"resident memory {rss / 2**20:.1f} MiB, then {grown * 100:+.2f}% and {kv / 2**20:.1f} MiB of prefix cache")
    print("problems: " + ("; ".join(problems) or "none"))
    print(f"{0 if problems else 1} passed, {1 if problems else 0} failed")
    sys.exit(1 if problems else 0)


main()
