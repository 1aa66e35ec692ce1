"""The chat without a terminal: a line on stdin is a turn, stdout has the answers alone."""
import json
import os
import signal
import subprocess

import tiny_model
from harness import ENGINE, ENVIRONMENT, HERE, Case, engine, fixture, main, model, write_file

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Lines(Case):
    def chat(self, *lines, flags=(), name="tiny", **changes):
        directory = os.path.join(HERE, "chat")
        os.makedirs(directory, exist_ok=True)
        return engine("chat", model(name, **changes), *flags, stdin="".join(line + "\n" for line in lines), cwd=directory)

    def saved(self, *lines, flags=()):
        """The chat's file after these lines."""
        path = os.path.join(HERE, "saved.json")
        if os.path.exists(path):
            os.remove(path)
        result = self.succeeds(self.chat(*lines, "!save " + path, flags=flags))
        with open(path) as file:
            return json.load(file), result

    def test_each_line_is_a_turn(self):
        result = self.succeeds(self.chat("one", "", "two", "   ", "three"))
        self.assertEqual(result.out, (ALPHABET + "\n") * 3)
        closing = [line for line in result.err.splitlines() if " tok/s" in line]
        self.assertEqual(len(closing), 3)
        for line in closing:
            self.assertRegex(line, r"^27 tokens, [0-9.]+ tok/s, prompt \d+ \(\d+ cached\)$")
        cached = [int(line.split("(")[1].split()[0]) for line in closing]
        self.assertEqual(cached[0], 0)
        self.assertGreater(cached[1], 40)  # the conversation so far is not computed again
        self.assertGreater(cached[2], cached[1] + 40)

    def test_quiet(self):
        result = self.succeeds(self.chat("one", flags=["-q"]))
        self.assertEqual((result.out, result.err), (ALPHABET + "\n", ""))

    def test_last_line_without_an_end(self):
        self.assertEqual(self.succeeds(engine("chat", model(), "-q", stdin="one")).out, ALPHABET + "\n")
        self.assertEqual(self.succeeds(engine("chat", model(), "-q", stdin="")).out, "")
        self.assertEqual(self.succeeds(engine("chat", model(), "-q", stdin="one\r\n!status\r\n")).out, ALPHABET + "\n")

    def test_length(self):
        result = self.succeeds(self.chat("one", flags=["max_new_tokens=3"]))
        self.assertEqual(result.out, "ABC\n")
        self.assertIn("max_new_tokens", result.err)
        self.assertIn("\n256 tokens", "\n" + self.succeeds(self.chat("one", flags=["eos_token_id=None"])).err)

    def test_thoughts_are_no_part_of_the_answer(self):
        says = [("<think>", True), "\nHm,", " two.\n", ("</think>", True), "\n\nIt is", " 4."]
        template = tiny_model.CHATML + "{# </think> #}"
        path = os.path.join(HERE, "thoughts.json")
        result = self.succeeds(self.chat("one", "!save " + path, name="thinks", says=says, template=template))
        self.assertEqual(result.out, "It is 4.\n")
        with open(path) as file:
            history = json.load(file)["chat_history"]
        self.assertEqual(history[1], {"role": "assistant", "content": "It is 4.", "reasoning_content": "Hm, two."})
        self.assertEqual(self.succeeds(self.chat("one", "!load " + path, "two", name="thinks")).out, "It is 4.\n" * 2)
        # GPT-OSS's channels.
        says = [("<|channel|>", True), "analysis", ("<|message|>", True), "Hm.", ("<|end|>", True), "<|start|>assistant<|channel|>final<|message|>", "It is 4."]
        template = tiny_model.CHATML + "{# <|channel|> <|message|> functions. #}"
        self.assertEqual(self.succeeds(self.chat("one", name="channels", says=says, template=template)).out, "It is 4.\n")

    def test_commands_write_to_stderr(self):
        result = self.succeeds(self.chat("!help", "/help", "!status", "!tokens", "!system", "!multiline"))
        self.assertEqual(result.out, "")
        for command in ("help", "status", "clear", "set", "save", "example", "exit", "load", "undo", "regen", "tokens", "system", "multiline"):
            self.assertIn("!" + command, result.err)
        listed = self.chat("!help").err.splitlines()
        self.assertEqual([line for line in listed if len(line) > 80], [])  # it fits into the usual terminal
        for word in ("LlamaForCausalLM", "settings", "0 of 4096 tokens", "max_new_tokens=256", "do_sample=False"):
            self.assertIn(word, result.err)

    def test_unknown_commands_lose_nothing(self):
        for typed, nearest in (("!stats", "!status"), ("!hlep", "!help"), ("/claer", "!clear"), ("!sett a=b", "!set")):
            file, result = self.saved("one", typed)
            self.assertIn("unknown command " + typed.split()[0], result.err)
            self.assertIn("did you mean " + nearest + "?", result.err)
            self.assertEqual([m["role"] for m in file["chat_history"]], ["user", "assistant"])
        result = self.succeeds(self.chat("!clear now", "!undo 3"))
        self.assertEqual(result.err.count("takes nothing after it"), 2)

    def test_messages_that_look_like_commands(self):
        file, _ = self.saved(" !help", "/usr/bin/ls", "/ x", "// y")
        self.assertEqual([m["content"] for m in file["chat_history"][::2]], ["!help", "/usr/bin/ls", "/ x", "// y"])

    def test_exit(self):
        for word in ("!exit", "/exit", "!quit"):
            self.assertEqual(self.succeeds(self.chat("one", word, "two")).out, ALPHABET + "\n")

    def test_set(self):
        file, result = self.saved("!set max_new_tokens=2 temperature=0.5 do_sample=False", "one",
                                  "!set stop_strings=[\"C\", \"X Y\"] max_new_tokens=None", "!set system_prompt=\"Be kind, please\"", "two")
        self.assertEqual(result.out.splitlines()[0], "AB")
        settings = file["settings"]["config"]
        self.assertEqual((settings["temperature"], settings["stop_strings"], settings["max_new_tokens"]), (0.5, ["C", "X Y"], None))
        self.assertEqual(file["chat_history"][0], {"role": "system", "content": "Be kind, please"})
        self.assertEqual(file["chat_history"][-1], {"role": "assistant", "content": "ABC"})

    def test_bad_settings_change_nothing(self):
        for typed, word in (("!set temprature=1", "temperature"), ("!set temperature=2 top_p=7", "top_p"), ("!set temperature=nan", "temperature"),
                            ("!set temperature", "key=value"), ("!set", "key=value"), ("!set stop_strings=[\"a", "\""), ("!set =1", "key=value")):
            with self.subTest(typed=typed):
                file, result = self.saved(typed)
                self.assertIn(word, result.err)
                self.assertEqual(file["settings"]["config"]["temperature"], 1.0)

    def test_system(self):
        file, result = self.saved("one", "!system Be kind", "!system")
        self.assertEqual([m["role"] for m in file["chat_history"]], ["system", "user", "assistant"])
        self.assertEqual(result.err.count("system prompt: Be kind"), 2)
        file, _ = self.saved("!clear", "one", flags=["--system-prompt", "Be brief"])
        self.assertEqual(file["chat_history"][0], {"role": "system", "content": "Be brief"})
        file, _ = self.saved("!set system_prompt=None", "one", flags=["--system-prompt", "Be brief"])
        self.assertEqual(file["chat_history"][0]["role"], "user")

    def test_clear_and_undo(self):
        file, _ = self.saved("one", "two", "!undo")
        self.assertEqual([m["content"] for m in file["chat_history"]], ["one", ALPHABET])
        file, _ = self.saved("one", "two", "!clear")
        self.assertEqual(file["chat_history"], [])
        _, result = self.saved("x" + "\u00e9" * 200, "!undo")
        self.assertIn("Took back: x" + "\u00e9" * 99 + "...\n", result.err)
        self.assertIn("nothing to take back", self.succeeds(self.chat("!undo")).err)

    def test_regen(self):
        file, result = self.saved("one", "!set max_new_tokens=3", "!regen")
        self.assertEqual(result.out, ALPHABET + "\nABC\n")
        self.assertEqual([m["content"] for m in file["chat_history"]], ["one", "ABC"])
        self.assertIn("no answer to give again", self.succeeds(self.chat("!regen")).err)

    def test_example(self):
        file, result = self.saved("one", "!example llama")
        self.assertEqual(len(file["chat_history"]), 2)
        self.assertIn("llama", file["chat_history"][0]["content"])
        self.assertEqual(result.out, (ALPHABET + "\n") * 2)
        self.assertIn("helicopter", self.succeeds(self.chat("!example none")).err)

    def test_save_and_load(self):
        file, result = self.saved("one", "!set temperature=0.5 max_new_tokens=3")
        path = os.path.join(HERE, "saved.json")
        self.assertIn(path, result.err)
        self.assertEqual(file["settings"]["model_id"], "tiny")
        again = os.path.join(HERE, "again.json")
        result = self.succeeds(self.chat("!load " + path, "two", "!save " + again))
        self.assertEqual(result.out, "ABC\n")
        with open(again) as loaded:
            self.assertEqual([m["content"] for m in json.load(loaded)["chat_history"]], ["one", ALPHABET, "two", "ABC"])
        result = self.succeeds(self.chat("two", flags=["--load", path, "max_new_tokens=5"]))
        self.assertEqual(result.out, "ABCDE\n")

    def test_default_place(self):
        result = self.succeeds(self.chat("one", "!save"))
        place = result.err.split("Saved to ")[1].split("\n")[0]
        self.assertRegex(place, r"^\./chat_history/tiny/chat_[\d_-]+\.json$")
        with open(os.path.join(HERE, "chat", place)) as file:
            self.assertEqual(len(json.load(file)["chat_history"]), 2)

    def test_a_chat_of_the_original_program_loads(self):
        path = write_file("theirs.json", json.dumps({
            "settings": {"base_url": "http://localhost:8000", "model_id": "x", "config": {
                "max_new_tokens": 4, "do_sample": True, "num_beams": None, "temperature": None, "eos_token_id": None,
                "transformers_version": "5.0.0"}},
            "chat_history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
        self.assertEqual(self.succeeds(self.chat("two", flags=["--load", path])).out, "ABCD\n")

    def test_bad_files_change_nothing(self):
        bad = {"not-json": "{", "no-history": "{}", "odd": '{"chat_history": 1}', "odder": '{"chat_history": [{"content": "x"}]}',
               "settings": '{"chat_history": [], "settings": {"config": {"temperature": "x"}}}'}
        for name, text in bad.items():
            path = write_file(name, text)
            with self.subTest(file=name):
                self.fails(engine("chat", model(), "--load", path), 1, name)
                file, result = self.saved("one", "!load " + path)
                self.assertIn(name, result.err)
                self.assertEqual(len(file["chat_history"]), 2)
        file, result = self.saved("one", "!load /none", "!save /proc/none/x", "!save /")
        self.assertEqual(result.err.count("engine: "), 3)
        self.assertEqual(len(file["chat_history"]), 2)

    def test_context_overflow_keeps_the_chat(self):
        path = os.path.join(HERE, "overflow.json")
        result = self.chat("one", "x" * 500, "two", "!save " + path, flags=["--ctx", "200"])
        self.assertEqual(result.code, 1)  # a message had no answer
        self.assertEqual(result.out, (ALPHABET + "\n") * 2)
        errors = [line for line in result.err.splitlines() if line.startswith("engine: ")]
        self.assertEqual(len(errors), 1)
        self.assertIn("200", errors[0])
        with open(path) as file:
            self.assertEqual([m["content"] for m in json.load(file)["chat_history"][::2]], ["one", "two"])

    def test_no_lines_together(self):
        result = self.succeeds(self.chat("!multiline", "one", "two"))
        self.assertEqual(result.out, (ALPHABET + "\n") * 2)
        self.assertIn("!multiline: goes with a terminal", result.err)

    def test_context_full(self):
        result = self.succeeds(self.chat("one", flags=["--ctx", "40"]))
        self.assertIn("the context of 40 tokens is full", result.err)

    def test_no_template(self):
        base = model("base", template=None)
        self.fails(engine("chat", base, stdin="one\n"), 1, "no chat template", "--chat-template", "chatml", "gemma")
        for name in ("chatml", "raw", "llama3", "mistral", "gemma", "zephyr"):
            result = self.succeeds(engine("chat", base, "--chat-template", name, "-q", "max_new_tokens=2", stdin="one\n"))
            self.assertGreater(len(result.out), 1)

    def test_template_without_a_system_role(self):
        none = model("no-system", template=tiny_model.NO_SYSTEM)
        self.fails(engine("chat", none, "--system-prompt", "Be kind"), 1, "system prompt")
        result = self.succeeds(engine("chat", none, stdin="!system Be kind\none\n"))
        self.assertIn("engine: system prompt", result.err)
        self.assertEqual(result.out, ALPHABET + "\n")

    def test_interrupt(self):
        long = model("long", context=1 << 20)
        process = subprocess.Popen([ENGINE, "chat", long, "eos_token_id=None", "max_new_tokens=1000000"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        process.stdin.write(b"one\n")
        process.stdin.flush()
        process.stdout.read(30)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)

    def test_same_seed_same_answers(self):
        flags = ["do_sample=True", "temperature=30.0", "top_k=0", "--seed", "7", "max_new_tokens=20"]
        first = self.succeeds(self.chat("one", "!regen", "two", flags=flags)).out
        self.assertEqual(first, self.succeeds(self.chat("one", "!regen", "two", flags=flags)).out)
        other = self.succeeds(self.chat("one", "!regen", "two", flags=flags[:-2] + ["8", flags[-1]])).out
        self.assertNotEqual(first, other)

    def test_real_model(self):
        stories = fixture("stories260K")
        result = self.succeeds(engine("chat", stories, "do_sample=False", "max_new_tokens=40", "-q", stdin="Once upon a time\nThen\n"))
        self.assertGreater(len(result.out), 40)


if __name__ == "__main__":
    main()
