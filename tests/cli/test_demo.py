"""The demo model inside the program: found where no MODEL is given, said so, and of use. tools/demo/evaluate.py asks it more."""
import json
import os
import subprocess
import urllib.request

from harness import EMULATOR, ENGINE, ENVIRONMENT, HERE, Case, engine, main, model, write_file

LINE = "no MODEL given"


class Demo(Case):
    def answer(self, question, *flags):
        return self.succeeds(engine("generate", "-q", "-p", question, *flags)).out.strip()

    def test_answers(self):
        for question, words in [
            ("How do I start a server?", "engine serve"),
            ("Which flag sets the number of threads?", "--threads"),
            ("How do I quantize a model to disk?", "engine quantize"),
            ("What is the capital of France?", "Paris"),
            ("What is the symbol of iron?", "(Fe)"),
            ("What is your name?", "demo model"),
            ("What's the weather in Berlin?", "I don't know that"),
        ]:
            with self.subTest(question=question):
                self.assertIn(words, self.answer(question))

    def test_says_so_in_one_line(self):
        result = self.succeeds(engine("generate", "-p", "Hello!"))
        self.assertEqual(sum(LINE in line for line in result.err.splitlines()), 1, result)
        self.assertNotIn(LINE, result.out)
        self.assertEqual(self.succeeds(engine("generate", "-q", "-p", "Hello!")).err, "")
        self.assertNotIn(LINE, self.succeeds(engine("generate", model(), "-p", "x")).err)

    def test_same_answer_every_time(self):
        question = "Can you tell me about the temperature of your answers?"
        answers = {self.answer(question, "--threads", n) for n in ("1", "2", "3")}
        self.assertEqual(len(answers), 1, answers)

    def test_chat_keeps_a_name(self):
        result = self.succeeds(engine("chat", "-q", stdin="My name is Clara.\nWhat is the capital of Italy?\nWhat is my name?\n"))
        lines = result.out.splitlines()
        self.assertEqual(len(lines), 3, result)
        self.assertIn("Rome", lines[1])
        self.assertIn("Clara", lines[2])

    def test_chat_is_saved_under_a_plain_name(self):
        directory = os.path.join(HERE, "demo-chat")
        os.makedirs(directory)
        self.succeeds(engine("chat", "-q", stdin="Hello!\n!save\n", cwd=directory))
        self.assertEqual(os.listdir(os.path.join(directory, "chat_history")), ["demo"])

    def test_inspect(self):
        report = self.json(engine("inspect", "--json"))
        self.assertEqual(report["path"], "demo:")
        self.assertLess(report["parameters"], 2.5e6)
        self.assertIn(LINE, self.succeeds(engine("inspect")).err)

    def test_bench_fits_the_context(self):
        report = self.json(engine("bench", "--json", "-n", "8", "-r", "1"))
        self.assertGreater(report["decode_tok_s"], 0)

    def test_named_by_its_path(self):
        result = engine("tokenize", "demo:", "The capital of France")
        ids = self.succeeds(result).out.split()
        self.assertEqual(self.succeeds(engine("detokenize", "demo:", *ids)).out.strip(), "The capital of France")

    def test_in_memory_formats(self):
        for dtype in ("float32", "bfloat16", "int8", "int4"):
            with self.subTest(dtype=dtype):
                self.assertIn("Paris", self.answer("What is the capital of France?", "--dtype", dtype))

    def test_serve(self):
        server = subprocess.Popen([*EMULATOR, ENGINE, "serve", "--port", "0", "--log", "json"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        try:
            url, said = None, 0
            for line in server.stderr:
                said += LINE in line
                if "http://" in line:
                    url = "http://" + line.split("http://")[1].split("\"")[0].split()[0].rstrip("/")
                    break
            self.assertEqual(said, 1)
            models = json.load(urllib.request.urlopen(url + "/v1/models", timeout=30))
            self.assertEqual(models["data"][0]["id"], "demo")
            body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "What is the capital of Spain?"}]}).encode()
            request = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
            reply = json.load(urllib.request.urlopen(request, timeout=30))
            self.assertIn("Madrid", reply["choices"][0]["message"]["content"])
        finally:
            server.terminate()
            server.wait()
            server.stderr.close()

    def test_a_directory_of_that_name_is_not_needed(self):
        self.fails(engine("generate", "demo", "-p", "x"), 1, "demo")


main()
