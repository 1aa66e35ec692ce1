"""Asks the built program the held-back questions: evaluate.py ENGINE [held_back.tsv] -> a line a kind, and each wrong answer.

All go through one server, each as a conversation of its own, so a run takes seconds."""
import collections, concurrent.futures, json, os, re, subprocess, sys, threading, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
AIMS = {"usage": 95, "capital": 95, "element": 95, "unknown": 90}


def ask(url, question):
    body = json.dumps({"messages": [{"role": "user", "content": question}]}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["message"]["content"]


def holds(answer, words, kind):
    if words.isdigit(): return re.search(r"(?<!\d)" + words + r"(?!\d)", answer.split("=")[-1]) is not None  # 6 is not in 16
    return words in answer if kind == "element" else words.lower() in answer.lower()


def main():
    engine, path = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else HERE + "/held_back.tsv"
    model = sys.argv[3:]  # for models that are not built in yet
    server = subprocess.Popen([engine, "serve", *model, "--parallel", "16", "--port", "0", "--log", "json"], stderr=subprocess.PIPE, text=True)
    url = None
    for line in server.stderr:
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            url = found[0]
            break
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()  # a full pipe would stop the server
    right, all_, wrong = collections.Counter(), collections.Counter(), []
    try:
        rows = [line.rstrip("\n").split("\t") for line in open(path, encoding="utf-8") if line.strip() and not line.startswith("#")]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda row: ask(url, row[1]), rows))
        for (kind, question, expected), answer in zip(rows, answers):
            good = any(holds(answer, words.strip(), kind) for words in expected.split("||"))
            all_[kind] += 1
            right[kind] += good
            if not good: wrong.append((kind, question, answer))
    finally:
        server.terminate()
        server.wait()
    for kind, question, answer in wrong: print(f"{kind}\t{question}\t{answer}")
    missed = 0
    for kind, n in all_.items():
        share = 100 * right[kind] / n
        missed += share < AIMS.get(kind, 0)
        print(f"{kind}: {right[kind]} of {n}, {share:.1f}%" + (f" (aim {AIMS[kind]}%)" if kind in AIMS else ""))
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
