"""The commands of the built program, without a terminal: results, streams, exit codes."""
import json
import math
import os
import resource
import shutil
import stat
import struct
import subprocess

import tiny_model
from harness import ENGINE, ENVIRONMENT, HERE, Case, engine, fixture, main, model, write_file

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IM_END = 258


class Usage(Case):
    def test_help(self):
        general = self.succeeds(engine("--help")).out
        self.assertEqual(general, self.succeeds(engine("help")).out)
        commands = ["chat", "generate", "inspect", "check", "perplexity", "tokenize", "detokenize", "template", "logits", "version"]
        for command in commands:
            self.assertIn("\n  " + command + " ", general)
            text = self.succeeds(engine(command, "--help")).out
            self.assertIn("usage: engine " + command, text)
            self.assertIn("--help", text)
            for line in (general + text).splitlines():
                self.assertLessEqual(len(line), 80, line)
                self.assertEqual(line, line.rstrip())

    def test_nothing_given(self):
        result = engine()
        self.assertEqual((result.code, result.out), (2, ""))
        self.assertIn("usage: engine", result.err)

    def test_wrong_command_lines(self):
        tiny = model()
        cases = [
            (["genrate"], "unknown command 'genrate'", "engine generate"),
            (["quantise", tiny, "x"], "quantize"),
            (["logits"], "MODEL is missing"),
            (["generate", tiny, "--thread", "2", "-p", "x"], "--thread", "did you mean --threads?"),
            (["generate", tiny, "--jsonl", "-p", "x"], "--jsonl", "engine generate"),
            (["generate", tiny, "-p"], "-p", "value is missing"),
            (["generate", tiny, "extra", "-p", "x"], "unexpected argument 'extra'"),
            (["generate", tiny, "-p", "x", "--threads", "none"], "--threads", "'none'"),
            (["generate", tiny, "-p", "x", "--threads", "0"], "--threads", "'0'"),
            (["generate", tiny, "-p", "x", "--ctx", "-5"], "--ctx", "'-5'"),
            (["generate", tiny, "-p", "x", "--ctx", "12x"], "--ctx", "'12x'"),
            (["generate", tiny, "-p", "x", "--seed", "1.5"], "--seed", "'1.5'"),
            (["generate", tiny, "-p", "x", "--mem", "much"], "--mem", "'much'"),
            (["generate", tiny, "-p", "x", "--mem", "1X"], "--mem", "'1X'"),
            (["generate", tiny, "-p", "x", "--dtype", "int5"], "--dtype", "'int5'", "bfloat16"),
            (["generate", tiny, "-p", "x", "--kv-dtype", "int7"], "--kv-dtype", "'int7'"),
            (["generate", tiny, "-p", "x", "--isa", "sse9"], "--isa", "'sse9'"),
            (["generate", tiny, "-p", "x", "--group-size", "64"], "--group-size", "--dtype int8 or int4"),
            (["generate", tiny, "-p", "x", "--dtype", "int8", "--load-in-4bit"], "--load-in-4bit", "got two"),
            (["generate", tiny, "-p", "x", "--load-in-4bit", "--dtype", "int8"], "--load-in-4bit", "got two"),
            (["generate", tiny, "-p", "x", "--messages", "m.json"], "-p and --messages"),
            (["generate", tiny, "--messages", "-", "--json-schema", "-"], "--json-schema"),
            (["generate", tiny, "-p", "x", "--raw", "--system-prompt", "y"], "--raw"),
            (["generate", tiny, "-p", "x", "temprature=1"], "temprature", "temperature"),
            (["generate", tiny, "-p", "x", "temperature=nan"], "temperature", "nan"),
            (["generate", tiny, "-p", "x", "temperature=-1"], "temperature"),
            (["generate", tiny, "-p", "x", "temperature=warm"], "temperature", "warm"),
            (["generate", tiny, "-p", "x", "top_p=1.5"], "top_p", "1.5"),
            (["generate", tiny, "-p", "x", "do_sample=perhaps"], "do_sample", "perhaps"),
            (["generate", tiny, "-p", "x", "max_new_tokens=1.5"], "max_new_tokens", "1.5"),
            (["generate", tiny, "-p", "x", "=1"], "engine"),
            (["template"], "render"),
            (["template", "bake"], "'bake'"),
            (["template", "render"], "engine"),
            (["logits", tiny], "--input"),
            (["logits", tiny, "--input", "x"], "--output"),
            (["perplexity", tiny], "FILE is missing"),
            (["tokenize", tiny, "a", "b"], "unexpected argument 'b'"),
            (["version", "--nope"], "--nope"),
        ]
        for arguments, *words in cases:
            with self.subTest(arguments=arguments):
                self.fails(engine(*arguments), 2, *words)

    def test_settings_stand_anywhere(self):
        tiny = model()
        for arguments in (["max_new_tokens=3", tiny, "-p", "x"], [tiny, "max_new_tokens=3", "-p", "x"],
                          [tiny, "-p", "x", "max_new_tokens=3"], ["-p", "x", "--", "max_new_tokens=3", tiny]):
            self.assertEqual(self.succeeds(engine("generate", *arguments)).out, "ABC\n")

    def test_values_that_look_like_something_else(self):
        tiny = model()
        for text in ("-q", "--help", "a=b", "[1, 2]", "++", "--", "-5", ""):
            answer = self.json(engine("generate", tiny, "-p", text, "--json", "max_new_tokens=1"))
            self.assertEqual(answer["generated_text"][0]["content"], text)
            answer = self.json(engine("generate", tiny, "--prompt=" + text, "--json", "max_new_tokens=1"))
            self.assertEqual(answer["generated_text"][0]["content"], text)
        self.assertEqual(self.succeeds(engine("tokenize", tiny, "++")).out, "43 43\n")
        self.assertEqual(self.succeeds(engine("tokenize", tiny, "a=b")).out, "97 61 98\n")
        self.assertEqual(self.succeeds(engine("tokenize", tiny, "--", "-q")).out, "45 113\n")

    def test_a_model_path_may_hold_an_equals_sign(self):
        path = tiny_model.write(os.path.join(HERE, "a=b"))
        self.assertEqual(self.succeeds(engine("generate", path, "-p", "x", "max_new_tokens=2")).out, "AB\n")

    def test_last_value_wins(self):
        answer = self.json(engine("generate", model(), "-p", "x", "-p", "y", "--json", "max_new_tokens=9", "max_new_tokens=1"))
        self.assertEqual((answer["generated_text"][0]["content"], answer["completion_tokens"]), ("y", 1))


class Version(Case):
    def test_version(self):
        text = self.succeeds(engine("version")).out
        answer = self.json(engine("version", "--json"))
        self.assertEqual(set(answer), {"version", "compiler", "isa", "threads", "tls"})
        self.assertIn("engine " + answer["version"], text)
        self.assertIn(answer["isa"]["chosen"], answer["isa"]["usable"])
        self.assertTrue(set(answer["isa"]["usable"]) <= set(answer["isa"]["compiled"]))
        self.assertGreaterEqual(answer["threads"], 1)
        self.assertEqual(self.succeeds(engine("--version")).out, text)

    def test_choice_of_isa(self):
        for name in self.json(engine("version", "--json"))["isa"]["usable"]:
            self.assertEqual(self.json(engine("version", "--json", "--isa", name))["isa"]["chosen"], name)
            chosen = self.json(engine("version", "--json", environment={"ENGINE_ISA": name}))["isa"]["chosen"]
            self.assertEqual(chosen, name)
            self.assertEqual(self.succeeds(engine("generate", model(), "-p", "x", "--isa", name)).out, ALPHABET + "\n")
        self.fails(engine("version", environment={"ENGINE_ISA": "abacus"}), 2, "ENGINE_ISA", "'abacus'")


class Generate(Case):
    def test_text(self):
        result = self.succeeds(engine("generate", model(), "-p", "Hello"))
        self.assertEqual(result.out, ALPHABET + "\n")
        self.assertRegex(result.err, r"^27 tokens, [0-9.]+ tok/s, prompt \d+ \(0 cached\)\n$")

    def test_quiet(self):
        self.assertEqual(self.succeeds(engine("generate", model(), "-p", "Hello", "-q")).err, "")

    def test_json(self):
        answer = self.json(engine("generate", model(), "-p", "Hello", "--system-prompt", "Be kind", "--json", "-q"))
        self.assertEqual(answer["generated_text"], [
            {"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": ALPHABET}])
        self.assertEqual(answer["text"], ALPHABET)
        self.assertEqual(answer["token_ids"], [ord(c) for c in ALPHABET] + [IM_END])
        prompt = "\1system\nBe kind\2\n\1user\nHello\2\n\1assistant\n"
        self.assertEqual(answer["prompt_tokens"], len(prompt))
        self.assertEqual((answer["completion_tokens"], answer["cached_tokens"], answer["finish_reason"]), (27, 0, "stop"))
        self.assertEqual(set(answer["timings"]), {"load_s", "prefill_s", "decode_s", "prefill_tok_s", "decode_tok_s"})
        cut = self.json(engine("generate", model(), "-p", "Hello", "--json", "max_new_tokens=4"))
        self.assertEqual((cut["text"], cut["finish_reason"]), ("ABCD", "length"))

    def test_json_schema(self):
        schema = {"type": "object", "properties": {"letters": {"enum": ["ABC", "XYZ"]}, "more": {"type": "boolean"}}, "required": ["letters", "more"]}
        path = write_file("schema.json", json.dumps(schema))
        answer = self.json(engine("generate", model(), "-p", "Hello", "--json", "--json-schema", path))
        value = json.loads(answer["text"])
        self.assertIn(value["letters"], ["ABC", "XYZ"])
        self.assertIsInstance(value["more"], bool)
        self.assertEqual(answer["finish_reason"], "stop")
        from_stdin = self.json(engine("generate", model(), "-p", "Hello", "--json", "--json-schema", "-", stdin=json.dumps(schema)))
        self.assertEqual(from_stdin["token_ids"], answer["token_ids"])
        path = write_file("schema.json", '{"pattern": "x"}')
        self.fails(engine("generate", model(), "-p", "Hello", "--json-schema", path), 1, "--json-schema: schema: keyword 'pattern' is not supported")

    def test_messages(self):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
        path = write_file("messages.json", json.dumps(messages))
        from_file = self.json(engine("generate", model(), "--messages", path, "--json"))
        from_stdin = self.json(engine("generate", model(), "--messages", "-", "--json", stdin=json.dumps(messages)))
        self.assertEqual(from_file["generated_text"], messages + [{"role": "assistant", "content": ALPHABET}])
        self.assertEqual(from_stdin["generated_text"], from_file["generated_text"])

    def test_assistant_message_is_continued(self):
        messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "ABCDEF"}]
        answer = self.json(engine("generate", model(), "--messages", "-", "--json", stdin=json.dumps(messages)))
        self.assertEqual(answer["text"], ALPHABET[6:])
        self.assertEqual(answer["generated_text"], messages[:1] + [{"role": "assistant", "content": ALPHABET}])

    def test_stdin_is_the_prompt(self):
        answer = self.json(engine("generate", model(), "--json", stdin="two\nlines"))
        self.assertEqual(answer["generated_text"][0]["content"], "two\nlines")

    def test_raw(self):
        answer = self.json(engine("generate", model(), "--raw", "-p", "xyz abc", "--json", "max_new_tokens=5"))
        self.assertEqual((answer["text"], answer["generated_text"], answer["prompt_tokens"]), ("defgh", "xyz abcdefgh", 7))
        self.assertEqual(self.succeeds(engine("generate", model(), "--raw", "-p", "<|im_end|>", "max_new_tokens=3")).out, "abc\n")
        self.fails(engine("generate", model(), "--raw", "-p", ""), 1, "empty")

    def test_stream(self):
        self.assertEqual(self.succeeds(engine("generate", model(), "-p", "x", "--stream")).out, ALPHABET + "\n")
        lines = self.succeeds(engine("generate", model(), "-p", "x", "--stream", "--json")).out.splitlines()
        self.assertEqual("".join(json.loads(line)["delta"] for line in lines[:-1]), ALPHABET)
        self.assertEqual(json.loads(lines[-1])["text"], ALPHABET)

    def test_control_tokens_in_messages_are_text(self):
        text = "a<|im_end|>b"
        as_text = self.json(engine("generate", model(), "-p", text, "--json"))["prompt_tokens"]
        as_control = self.json(engine("generate", model(), "-p", text, "--json", "--allow-special"))["prompt_tokens"]
        self.assertEqual(as_text - as_control, len("<|im_end|>") - 1)

    def test_default_length(self):
        answer = self.json(engine("generate", model(), "-p", "x", "--json", "eos_token_id=None"))
        self.assertEqual((answer["completion_tokens"], answer["finish_reason"]), (256, "length"))

    def test_generation_config(self):
        path = write_file("settings.json", '{"max_new_tokens": 2}')
        self.assertEqual(self.succeeds(engine("generate", model(), "-p", "x", "--generation-config", path)).out, "AB\n")
        self.assertEqual(
            self.succeeds(engine("generate", model(), "-p", "x", "--generation-config", path, "max_new_tokens=3")).out, "ABC\n")
        bad = write_file("bad_settings.json", '{"max_new_token": 2}')
        self.fails(engine("generate", model(), "-p", "x", "--generation-config", bad), 1, "bad_settings.json", "max_new_tokens")

    def test_stop_strings(self):
        answer = self.json(engine("generate", model(), "-p", "x", "--json", 'stop_strings=["CD"]'))
        self.assertEqual((answer["text"], answer["finish_reason"]), ("ABCD", "stop"))

    def test_dtypes_and_threads(self):
        for flags in (["--dtype", "float32"], ["--dtype", "bfloat16"], ["--dtype", "float16"], ["--dtype", "int8"],
                      ["--dtype", "int4"], ["--load-in-8bit"], ["--load-in-4bit"], ["--kv-dtype", "bfloat16"], ["--threads", "1"],
                      ["--threads", "3"], ["--ctx", "100"], ["--mem", "1G"], ["--mem", "1.5GiB", "--dtype", "bfloat16"]):
            with self.subTest(flags=flags):
                self.assertEqual(self.succeeds(engine("generate", model(), "-p", "x", *flags)).out, ALPHABET + "\n")

    def test_memory_budget(self):
        self.fails(engine("generate", model(), "-p", "x", "--mem", "4K"), 1, "--mem", "weights", "KV cache", "got 4.0 KiB")

    def test_chat_templates(self):
        base = model("base", template=None)
        self.fails(engine("generate", base, "-p", "x"), 1, "no chat template", "--raw", "--chat-template", "chatml")
        self.assertEqual(self.succeeds(engine("generate", base, "-p", "x", "--chat-template", "chatml")).out, ALPHABET + "\n")
        self.fails(engine("generate", base, "-p", "x", "--chat-template", "chatmal"), 1, "chatmal", "chatml")
        self.fails(engine("generate", base, "-p", "x", "--chat-template", "x" * 300), 1, "--chat-template: expected a file or one of")  # no name of a file
        path = write_file("own.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}")
        self.assertEqual(
            self.succeeds(engine("generate", base, "-p", "say abc", "--chat-template", path, "max_new_tokens=3")).out, "def\n")

    def test_links_that_lead_nowhere(self):
        path = tiny_model.write(os.path.join(HERE, "loops"))
        for name in ("additional_chat_templates", "chat_template.jinja", "added_tokens.json", "loop"):
            os.symlink(name, os.path.join(path, name))
        self.assertEqual(self.succeeds(engine("generate", path, "-p", "x", "max_new_tokens=2")).out, "AB\n")
        self.succeeds(engine("quantize", path, os.path.join(HERE, "loops-int8"), "--dtype", "int8"))

    def test_system_prompt_is_not_dropped(self):
        none = model("no-system", template=tiny_model.NO_SYSTEM)
        self.fails(engine("generate", none, "-p", "x", "--system-prompt", "Be kind"), 1, "system")

    def test_interrupt(self):
        long = model("long", context=1 << 20)
        process = subprocess.Popen([ENGINE, "generate", long, "-p", "x", "--stream", "eos_token_id=None", "max_new_tokens=1000000"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        start = process.stdout.read(40)
        process.send_signal(2)
        rest, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertTrue(start.startswith(ALPHABET.encode()))
        self.assertTrue(rest.endswith(b"\n"))
        self.assertIn(b" tok/s", err)


class BadInput(Case):
    """One clear line for each thing that can be wrong with a model."""

    def test_wrong_path(self):
        self.fails(engine("generate", "/no/such/place", "-p", "x"), 1, "/no/such/place")
        self.fails(engine("generate", "Nobody/Nothing", "-p", "x", environment={"HF_HOME": HERE}), 1, "Nobody/Nothing", "engine pull")
        self.fails(engine("generate", write_file("a-file", "x"), "-p", "x"), 1, "a-file")

    def test_no_tokenizer(self):
        bare = model("bare", tokenizer=False)
        for command in (["generate", bare, "-p", "x"], ["chat", bare], ["tokenize", bare, "x"], ["perplexity", bare, write_file("t", "abc")]):
            self.fails(engine(*command), 1, "tokenizer.json")

    def test_unknown_architecture(self):
        odd = model("odd", architectures=["MambaForCausalLM"], model_type="mamba")
        self.fails(engine("generate", odd, "-p", "x"), 1, "MambaForCausalLM", "config.json")

    def damaged(self, name, file, text):
        path = tiny_model.write(os.path.join(HERE, name))
        with open(os.path.join(path, file), "wb") as out:
            out.write(text)
        return path

    def test_truncated_weights(self):
        with open(os.path.join(model(), "model.safetensors"), "rb") as file:
            whole = file.read()
        for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
            path = self.damaged("truncated", "model.safetensors", whole[:size])
            self.fails(engine("generate", path, "-p", "x"), 1, "model.safetensors")

    def test_missing_weights(self):
        path = tiny_model.write(os.path.join(HERE, "weightless"))
        os.remove(os.path.join(path, "model.safetensors"))
        self.fails(engine("generate", path, "-p", "x"), 1, "model.safetensors")

    def test_bad_json(self):
        for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            with self.subTest(file=file):
                self.fails(engine("generate", self.damaged("bad-" + file, file, b'{"a": '), "-p", "x"), 1, file)
        for text in ("", "{", "[1]", '{"role": "user"}', "[]", '[{"content": "x"}]', '[{"role": 1}]', "[" * 100000):
            with self.subTest(messages=text[:20]):
                self.fails(engine("generate", model(), "--messages", "-", stdin=text), 1, "stdin")

    def test_context_overflow(self):
        self.fails(engine("generate", model(), "-p", "x" * 200, "--ctx", "100"), 1, "100", "2")
        exact = self.json(engine("generate", model(), "-p", "x", "--json", "--ctx", "30"))
        self.assertEqual((exact["finish_reason"], exact["prompt_tokens"] + exact["completion_tokens"]), ("length", 30))

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        with open("/dev/full", "wb") as full:
            for command in (["version"], ["generate", model(), "-p", "x"], ["generate", model(), "-p", "x", "--stream"],
                            ["tokenize", model(), "x"], ["inspect", model()]):
                done = subprocess.run([ENGINE, *command, *(["-q"] if command[0] != "version" else [])], stdout=full,
                                      stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=ENVIRONMENT, timeout=60)
                self.assertEqual((done.returncode, done.stderr.decode().count("\n")), (1, 1), done)
                self.assertIn("stdout", done.stderr.decode())

    def test_full_disk_in_a_chat(self):
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        done = subprocess.run([ENGINE, "chat", model()], input=b"one\n!save too-large.json\n!tokens\n", capture_output=True, cwd=HERE,
                              env=ENVIRONMENT, timeout=60, preexec_fn=limited)
        self.assertEqual((done.returncode, done.stdout.decode()), (0, ALPHABET + "\n"))
        self.assertIn("engine: too-large.json: cannot write: ", done.stderr.decode())
        self.assertIn("context: ", done.stderr.decode())
        self.assertEqual([name for name in os.listdir(HERE) if "too-large" in name], [])

    def test_reader_gone(self):
        long = model("long", context=1 << 20)
        process = subprocess.Popen([ENGINE, "generate", long, "-p", "x", "--stream", "-q", "eos_token_id=None", "max_new_tokens=1000000"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read().decode()
        self.assertEqual(process.wait(timeout=20), 1)
        self.assertEqual(err.count("\n"), 1)
        self.assertIn("stdout", err)

    def test_messages_from_a_file_cannot_drive_the_terminal(self):
        path = write_file("evil\x1b[2J.json", "{")
        result = engine("generate", model(), "--messages", path)
        self.assertEqual(result.code, 1)
        self.assertNotIn("\x1b", result.err)


class HubCache(Case):
    def test_hub_id(self):
        commit = "0123456789abcdef0123456789abcdef01234567"
        hub = os.path.join(HERE, "hf", "hub")
        tiny_model.write(os.path.join(hub, "models--Some--Tiny", "snapshots", commit))
        write_file("hf/hub/models--Some--Tiny/refs/main", commit)
        for environment in ({"HF_HOME": os.path.join(HERE, "hf")}, {"HF_HUB_CACHE": hub}):
            for flags in ([], ["--revision", commit]):
                result = engine("generate", "Some/Tiny", "-p", "x", "-q", *flags, environment=environment)
                self.assertEqual(self.succeeds(result).out, ALPHABET + "\n")
        self.fails(engine("generate", "Some/Tiny", "-p", "x", "--revision", "other", environment={"HF_HUB_CACHE": hub}), 1, "other", "engine pull")
        self.fails(engine("generate", "Some/Tiny", "-p", "x", "--revision", "../x", environment={"HF_HUB_CACHE": hub}), 1, "--revision")
        result = self.succeeds(engine("chat", "Some/Tiny", stdin="one\n!save\n", environment={"HF_HUB_CACHE": hub}))
        self.assertIn("Saved to ./chat_history/Some/Tiny/chat_", result.err)


class Inspect(Case):
    def test_json(self):
        answer = self.json(engine("inspect", model(), "--json"))
        self.assertEqual(answer["architecture"], "LlamaForCausalLM")
        self.assertEqual(answer["parameters"], sum(math.prod(t["shape"]) for t in answer["tensors"]))
        self.assertEqual(answer["bytes"], 4 * answer["parameters"])
        self.assertEqual(answer["n_tensors"], 12)
        self.assertEqual(answer["context"], 4096)
        self.assertEqual(answer["chat_template"] is None, False)
        plan = answer["plan"]
        self.assertEqual(plan["total_bytes"], plan["weights_bytes"] + plan["kv_bytes"] + plan["scratch_bytes"])
        self.assertEqual(plan["kv_bytes"], 4096 * 2 * 16 * 4)
        self.assertTrue(plan["fits"])
        forecast = answer["forecast"]
        self.assertGreater(forecast["read_gb_s"], 0.5)
        self.assertEqual(forecast["weights_bytes_active"], 4 * answer["active_parameters"])
        self.assertAlmostEqual(forecast["decode_tok_s_limit"] * forecast["weights_bytes_active"] / 1e9 / forecast["read_gb_s"], 1, places=3)
        self.assertLess(forecast["decode_tok_s"], forecast["decode_tok_s_limit"])

    def test_the_forecast_counts_the_weights_as_they_will_be(self):
        def active(*flags):
            return self.json(engine("inspect", model(), "--json", *flags))["forecast"]["weights_bytes_active"]
        self.assertEqual(active("--dtype", "bfloat16") * 2, active())
        benched = self.json(engine("bench", model(), "--json", "--dtype", "int8", "-p", "8", "-n", "8", "-r", "1"))
        self.assertEqual(active("--dtype", "int8"), benched["weights_bytes_active"])
        self.assertEqual(self.json(engine("inspect", model(), "--json", "--threads", "1"))["forecast"]["threads"], 1)

    def test_plan(self):
        def plan(*flags):
            return self.json(engine("inspect", model(), "--json", *flags))["plan"]
        self.assertEqual(plan("--ctx", "1024")["kv_bytes"] * 4, plan()["kv_bytes"])
        self.assertEqual(plan("--kv-dtype", "bfloat16")["kv_bytes"] * 2, plan()["kv_bytes"])
        # The embedding of a model whose output matrix is another is looked up in the file, unless it is converted.
        self.assertEqual(plan()["lookup_bytes"], 4 * 259 * 64)
        self.assertEqual(plan("--dtype", "bfloat16")["lookup_bytes"], 0)
        self.assertLess(plan("--dtype", "bfloat16")["weights_bytes"], (plan()["weights_bytes"] + plan()["lookup_bytes"]) * 0.6)
        small = plan("--mem", "10K")
        self.assertEqual((small["fits"], small["largest_ctx"], small["available_bytes"]), (False, 0, 10240))

    def test_text(self):
        text = self.succeeds(engine("inspect", model())).out
        for word in ("LlamaForCausalLM", "parameters", "context", "4096", "KV cache", "scratch", "fits", "tokenizer_config.json", "GB/s", "tok/s expected"):
            self.assertIn(word, text)
        self.assertIn("chat template none", " ".join(self.succeeds(engine("inspect", model("bare", tokenizer=False))).out.split()))


DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")


def copy_of(directory, name):
    return shutil.copytree(directory, os.path.join(HERE, name))


class Check(Case):
    def report(self, directory, *flags):
        result = engine("check", directory, "--json", *flags)
        answer = json.loads(result.out)
        self.assertEqual(result.code, 0 if answer["ok"] else 1, result)
        self.assertEqual([part["part"] for part in answer["parts"]], ["tensors", "values", "tokenizer", "template", "settings", "forward pass"])
        return {part["part"]: part for part in answer["parts"]}

    def wrong(self, directory, part, *words):
        """Exactly this part is wrong; and the text form says the same."""
        parts = self.report(directory)
        self.assertEqual([name for name in parts if parts[name]["verdict"] == "wrong"], [part])
        for word in words:
            self.assertIn(word, parts[part]["text"])
        result = engine("check", directory)
        self.assertEqual(result.code, 1)
        self.assertIn("\nwrong  " + part + ": " if part != "tensors" else "wrong  tensors: ", result.out)
        return parts[part]

    def test_layers_that_are_not_counted(self):
        copy = copy_of(fixture("stories260K"), "uncounted")
        path = os.path.join(copy, "config.json")
        with open(path) as file:
            config = json.load(file)
        config["num_hidden_layers"] = 3
        with open(path, "w") as file:
            json.dump(config, file)
        self.wrong(copy, "tensors", "18 more belong to layers beyond the 3")

    def test_other_files_under_the_name(self):
        for content, hint in ((b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git lfs pull"), (b"GGUF" + bytes(60), "GGUF")):
            copy = copy_of(model(), "not-" + hint.split()[0])
            with open(os.path.join(copy, "model.safetensors"), "wb") as file:
                file.write(content)
            self.assertIn(hint, engine("generate", copy, "-p", "x").err)

    def test_good(self):
        parts = self.report(model())
        self.assertEqual({part["verdict"] for part in parts.values()}, {"ok"})
        self.assertIn("9 of 9 texts", parts["tokenizer"]["text"])
        self.assertIn("all numbers of 12 float tensors are finite", parts["values"]["text"])
        result = self.succeeds(engine("check", model(), "--dtype", "int8", "-q"))
        self.assertEqual([line.split()[0] for line in result.out.splitlines()], ["ok"] * 6)

    def test_base_model(self):
        parts = self.report(model("no-template", template=None))
        self.assertEqual(parts["template"]["verdict"], "none")
        self.assertIn("--chat-template", parts["template"]["hint"])

    def test_wrong(self):
        self.wrong(model("check-bare", tokenizer=False), "tokenizer", "no tokenizer.json")
        self.wrong(model("check-eos", generation_config={"eos_token_id": 300}), "settings", "300")
        self.wrong(model("check-setting", generation_config={"temperature": "warm"}), "settings", "temperature")
        self.wrong(model("check-mute", template="{{ 'Hello' }}"), "template", "leaves out what user says")
        self.wrong(model("check-syntax", template="{% if %}"), "template", "line 1")
        parts = self.report(self.damaged("check-nan", b"\x00\x00\xc0\x7f"))
        self.assertEqual([name for name in parts if parts[name]["verdict"] == "wrong"], ["values", "forward pass"])
        self.assertIn("model.norm.weight has 1", parts["values"]["text"])
        self.assertIn("fetch it again", parts["values"]["hint"])

    def damaged(self, name, value):
        """The last norm's first number replaced."""
        path = tiny_model.write(os.path.join(HERE, name))
        file = os.path.join(path, "model.safetensors")
        with open(file, "rb") as f:
            data = bytearray(f.read())
        size = struct.unpack("<Q", data[:8])[0]
        at = 8 + size + json.loads(data[8:8 + size])["model.norm.weight"]["data_offsets"][0]
        data[at:at + 4] = value
        with open(file, "wb") as f:
            f.write(data)
        return path

    def test_a_model_that_cannot_be_loaded(self):
        parts = self.report(model("check-layers", num_hidden_layers=2))
        self.assertIn("model.layers.1.", parts["tensors"]["text"])
        self.assertEqual([parts[p]["verdict"] for p in ("tensors", "values", "tokenizer", "template", "forward pass")],
                         ["wrong", "ok", "ok", "ok", "none"])
        self.fails(engine("check", "no-such-model"), 1, "no-such-model")

    def test_a_tokenizer_with_more_ids_than_the_model(self):
        path = tiny_model.write(os.path.join(HERE, "check-ids"))
        file = os.path.join(path, "tokenizer.json")
        with open(file) as f:
            tokenizer = json.load(f)
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 259, "content": "<|more|>"})
        with open(file, "w") as f:
            json.dump(tokenizer, f)
        self.assertIn("another model", self.wrong(path, "tokenizer", "ids up to 259", "259 rows")["hint"])

    def test_quantized(self):
        result = engine("check", os.path.join(DATA, "quantized", "gptq-4bit"))
        self.assertEqual(result.code, 1)  # these have no tokenizer
        self.assertIn("ok     tensors: 32 tensors", result.out)
        self.assertIn("gptq: 7 matrices as int4, bit for bit\n", result.err)


class Foreign(Case):
    def test_what_became_of_the_weights_is_told(self):
        ids = os.path.join(DATA, "quantized", "awq", "reference.safetensors")
        for name, flags, told in (("awq", [], "awq: 7 matrices as int8, bit for bit\n"),
                                  ("bnb-nf4-double", [], r"bitsandbytes: 7 matrices as bfloat16, relative RMS error 0.001\d\n"),
                                  ("fp8-block", ["--dtype", "int8"], r"fp8: 7 matrices as int8, relative RMS error 0.00\d+\n"),
                                  ("fp8-block", ["-q"], "")):
            out = os.path.join(HERE, "logits.safetensors")
            result = self.succeeds(engine("logits", os.path.join(DATA, "quantized", name), "--input", ids, "--output", out, *flags))
            self.assertRegex(result.err, "^" + told + "$")

    def test_inspect(self):
        path = os.path.join(DATA, "quantized", "gptq-4bit")
        answer = self.json(engine("inspect", path, "--json"))
        self.assertEqual(answer["quantization"], "gptq")
        self.assertEqual(answer["parameters"], 64 * 64 + 64 * (64 + 32 + 32 + 64) + 3 * 96 * 64 + 3 * 64)
        wide = self.json(engine("inspect", path, "--json", "--dtype", "float32"))
        self.assertGreater(wide["plan"]["weights_bytes"], 4 * answer["parameters"] - 1)
        self.assertLess(answer["plan"]["weights_bytes"], 40000)
        self.assertIn("gptq", self.succeeds(engine("inspect", path)).out)
        self.assertIsNone(self.json(engine("inspect", model(), "--json"))["quantization"])


class Adapters(Case):
    def test_merged(self):
        base, adapter = os.path.join(DATA, "models", "llama-untied"), os.path.join(DATA, "adapters", "plain")
        outs = []
        for flags in ([], ["--adapter", adapter]):
            out = os.path.join(HERE, "logits.safetensors")
            ids = os.path.join(adapter, "reference.safetensors")
            result = self.succeeds(engine("logits", base, "--input", ids, "--output", out, *flags))
            self.assertEqual(result.err, "adapter: 6 matrices changed\n" if flags else "")
            with open(out, "rb") as f:
                outs.append(f.read())
        self.assertNotEqual(*outs)

    def test_every_command_that_loads_a_model_takes_it(self):
        missing = os.path.join(HERE, "no-adapter")
        text = write_file("adapter.txt", "abcabcabc")
        for command in (["chat", model()], ["generate", model(), "-p", "x"], ["serve", model(), "--port", "0"], ["inspect", model()],
                        ["perplexity", model(), text], ["bench", model()],
                        ["logits", model(), "--input", os.path.join(DATA, "adapters", "plain", "reference.safetensors"), "--output", "x"]):
            if command[0] == "serve" and "\n  serve " not in engine("--help").out:
                continue  # built without HTTP
            self.fails(engine(*command, "--adapter", missing), 1, "no-adapter", "adapter_config.json")
        self.assertIn("adapter_config.json", engine("check", model(), "--adapter", missing).out)


class Draft(Case):
    """A draft model changes how soon an answer is there, not the answer."""

    def test_same_answer(self):
        tiny_chat = os.path.join(DATA, "models", "tiny-chat")
        for settings in (["do_sample=False"], ["do_sample=True", "temperature=1.5", "--seed", "5"]):
            plain, drafted = (json.loads(self.succeeds(engine("generate", tiny_chat, "-p", "hello", "--json", "max_new_tokens=40", *settings, *flags)).out)
                              for flags in ([], ["--draft", tiny_chat]))
            self.assertEqual(plain["token_ids"], drafted["token_ids"])
            self.assertNotIn("draft_tokens", plain["timings"])
            self.assertGreater(drafted["timings"]["draft_tokens"], 0)
            self.assertEqual(drafted["timings"]["draft_tokens"], drafted["timings"]["accepted_tokens"])  # it is the same model

    def test_chat(self):
        chat = self.succeeds(engine("chat", model(), "--draft", model(), stdin="x\n!status\ny\n"))
        self.assertEqual(chat.out.count(ALPHABET), 2)
        self.assertIn("draft     " + model(), chat.out + chat.err)
        self.assertRegex(chat.err, r"27 tokens, .* of \d+ drafted")

    def test_less_memory_is_a_shorter_context(self):
        plan = json.loads(self.succeeds(engine("inspect", model(), "--ctx", "256", "--json")).out)["plan"]
        enough = str(plan["total_bytes"])
        long = model("longer", context=4096)
        result = self.succeeds(engine("generate", long, "-p", "x", "--mem", enough))
        self.assertRegex(result.err, r"context: \d+ of 4096 positions fit into --mem\n")
        self.fails(engine("generate", long, "-p", "x", "--mem", enough, "--ctx", "4096"), 1, "--mem", "4096 positions")

    def test_said_and_done(self):
        """What is allowed, and not what one may think."""
        said = lambda *flags: self.succeeds(engine("generate", model(), "-p", "x", *flags)).err
        self.assertIn("temperature: has no effect without do_sample=True\n", said("temperature=0.5", "do_sample=False"))
        self.assertNotIn("no effect", said("temperature=0.5", "do_sample=True"))
        self.assertIn("--ctx: 100000 positions, and the model was made for ", said("--ctx", "100000"))
        self.assertIn(", cut at max_new_tokens\n", said("max_new_tokens=2"))
        self.assertIn(", the context is full\n", said("--ctx", "40", "eos_token_id=None"))
        self.assertNotIn("cut", said())

    def test_memory_counts_both(self):
        plan = json.loads(self.succeeds(engine("inspect", model(), "--ctx", "512", "--json")).out)["plan"]
        enough = str(plan["total_bytes"] + 4096)
        self.succeeds(engine("generate", model(), "-p", "x", "--ctx", "512", "--mem", enough))
        self.fails(engine("generate", model(), "-p", "x", "--ctx", "512", "--mem", enough, "--draft", model()), 1, "--mem", "weights")

    def test_another_tokenizer(self):
        tiny_chat = os.path.join(DATA, "models", "tiny-chat")
        self.fails(engine("generate", model(), "-p", "x", "--draft", tiny_chat), 1, "--draft", "same tokenizer")
        self.fails(engine("generate", model(), "-p", "x", "--draft", "nowhere"), 1, "nowhere")


class Tokens(Case):
    def test_tokenize(self):
        self.assertEqual(self.succeeds(engine("tokenize", model(), "AB <|im_end|>")).out, "65 66 32 258\n")
        self.assertEqual(self.succeeds(engine("tokenize", model(), stdin="\u00e9\n")).out, "195 169 10\n")
        self.assertEqual(self.succeeds(engine("tokenize", model(), "")).out, "\n")

    def test_detokenize(self):
        self.assertEqual(self.succeeds(engine("detokenize", model(), "65", "66", "258")).out, "AB<|im_end|>\n")
        self.assertEqual(self.succeeds(engine("detokenize", model(), stdin="65 66\n67")).out, "ABC\n")
        self.fails(engine("detokenize", model(), "sixty"), 2, "sixty")

    def test_jsonl(self):
        lines = [{"text": "AB", "add_special_tokens": True}, {"text": "\u00e9", "add_special_tokens": False}]
        out = self.succeeds(engine("tokenize", model(), "--jsonl", stdin="".join(json.dumps(l) + "\n" for l in lines))).out
        self.assertEqual([json.loads(l) for l in out.splitlines()], [{"ids": [65, 66]}, {"ids": [195, 169]}])
        lines = [{"ids": [65, 195, 169, 258], "skip_special_tokens": True}, {"ids": [65, 258], "skip_special_tokens": False}]
        out = self.succeeds(engine("detokenize", model(), "--jsonl", stdin="".join(json.dumps(l) + "\n" for l in lines))).out
        answers = [json.loads(l) for l in out.splitlines()]
        self.assertEqual([a["text"] for a in answers], ["A\u00e9", "A<|im_end|>"])
        self.assertEqual(["".join(a["pieces"]) for a in answers], ["A\u00e9", "A<|im_end|>"])


class Template(Case):
    def test_jsonl(self):
        lines = [
            {"id": 1, "template": "{{ x }}!", "context": {"x": "hi"}},
            {"id": "b", "template": "{{ raise_exception('no') }}", "context": {}},
            {"id": 3, "template_file": write_file("t.jinja", "{{ y + 1 }}"), "context": {"y": 1}},
        ]
        out = self.succeeds(engine("template", "render", "--jsonl", stdin="".join(json.dumps(l) + "\n" for l in lines))).out
        answers = [json.loads(l) for l in out.splitlines()]
        self.assertEqual([a["id"] for a in answers], [1, "b", 3])
        self.assertEqual((answers[0]["output"], answers[2]["output"]), ("hi!", "2"))
        self.assertIn("no", answers[1]["error"])

    def test_files(self):
        context = write_file("context.json", json.dumps({"messages": [{"role": "user", "content": "q"}], "add_generation_prompt": True}))
        out = self.succeeds(engine("template", "render", model(), "--context", context)).out
        self.assertEqual(out, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")
        own = write_file("own2.jinja", "{{ messages[0].content }}")
        self.assertEqual(self.succeeds(engine("template", "render", "--template", own, "--context", context)).out, "q")
        self.fails(engine("template", "render", "--template", write_file("bad.jinja", "{% if %}"), "--context", context), 1, "bad.jinja")


class Logits(Case):
    def test_logits(self):
        ids = [[65, 66, 67], [10, 97, 122]]
        header = json.dumps({"input_ids": {"dtype": "I64", "shape": [2, 3], "data_offsets": [0, 48]}}).encode()
        header += b" " * (-len(header) % 8)
        path = write_file("ids.safetensors", struct.pack("<Q", len(header)) + header + struct.pack("<6q", *(ids[0] + ids[1])))
        out = os.path.join(HERE, "logits.safetensors")
        self.succeeds(engine("logits", model(), "--input", path, "--output", out))
        with open(out, "rb") as file:
            data = file.read()
        n = struct.unpack("<Q", data[:8])[0]
        entry = json.loads(data[8:8 + n])["logits"]
        self.assertEqual((entry["dtype"], entry["shape"]), ("F32", [2, 3, 259]))
        values = struct.unpack("<%df" % (6 * 259), data[8 + n:])
        best = [max(range(259), key=lambda v: values[i * 259 + v]) for i in range(6)]
        self.assertEqual(best, [66, 67, 68, 65, 98, 97])

    def test_errors(self):
        out = os.path.join(HERE, "never.safetensors")
        self.fails(engine("logits", model(), "--input", "/none", "--output", out), 1, "/none")
        header = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}).encode()
        path = write_file("large.safetensors", struct.pack("<Q", len(header)) + header + struct.pack("<q", 100000))
        self.fails(engine("logits", model(), "--input", path, "--output", out), 1, "100000")
        self.assertFalse(os.path.exists(out))

    def test_links_are_followed_and_pipes_keep_their_place(self):
        header = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}).encode()
        path = write_file("one-id.safetensors", struct.pack("<Q", len(header)) + header + struct.pack("<q", 65))
        target, link = write_file("target.safetensors", "old"), os.path.join(HERE, "link.safetensors")
        os.symlink(target, link)
        self.succeeds(engine("logits", model(), "--input", path, "--output", link))
        self.assertTrue(os.path.islink(link))
        with open(target, "rb") as file:
            expected = file.read()
        self.assertGreater(len(expected), 259 * 4)
        pipe = os.path.join(HERE, "pipe.safetensors")
        os.mkfifo(pipe)
        reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
        self.succeeds(engine("logits", model(), "--input", path, "--output", pipe))
        self.assertEqual(reader.communicate(timeout=20)[0], expected)
        self.assertTrue(stat.S_ISFIFO(os.stat(pipe).st_mode))
        done = subprocess.run([ENGINE, "logits", model(), "--input", path, "--output", "/dev/stdout"], capture_output=True, env=ENVIRONMENT)
        self.assertEqual((done.returncode, done.stdout), (0, expected))
        self.assertEqual([name for name in os.listdir(HERE) if ".tmp" in name], [])


class Perplexity(Case):
    def test_sure_and_unsure(self):
        text = write_file("alphabet.txt", "abcdefghijklmnopqrstuvwxyz" * 20)
        answer = self.json(engine("perplexity", model(), text, "--json"))
        self.assertEqual(set(answer), {"tokens", "nll", "perplexity"})
        self.assertEqual(answer["tokens"], 26 * 20 - 1)
        self.assertAlmostEqual(answer["perplexity"], 1.0, places=3)
        self.assertAlmostEqual(answer["perplexity"], math.exp(answer["nll"]), places=6)
        self.assertIn("perplexity 1.0", self.succeeds(engine("perplexity", model(), text, "--ctx", "64", "--stride", "16")).out)

    def test_against(self):
        text = write_file("alphabet.txt", "abcdefghijklmnopqrstuvwxyz" * 20)
        answer = self.json(engine("perplexity", model(), text, "--against", model(), "--json"))
        self.assertEqual((answer["mean_kl"], answer["top1_agreement"]), (0, 1))

    def test_errors(self):
        self.fails(engine("perplexity", model(), "/none"), 1, "/none")
        self.fails(engine("perplexity", model(), write_file("empty", "")), 1)


class RealModel(Case):
    """stories260K, where the goldens are."""

    def test_greedy(self):
        stories = fixture("stories260K")
        with open(os.path.join(stories, "greedy.jsonl")) as file:
            cases = [json.loads(line) for line in file]
        for case in cases[:6]:
            answer = self.json(engine("generate", stories, "--raw", "-p", case["prompt"], "--json", "-q", "do_sample=False", "max_new_tokens=200"))
            ids = [i for i in answer["token_ids"] if i not in (1, 2)]
            self.assertEqual(ids, case["greedy_ids"])
            self.assertEqual(answer["text"], case["greedy_text"])

    def test_perplexity(self):
        stories = fixture("stories260K")
        with open(os.path.join(stories, "ppl.json")) as file:
            expected = json.load(file)
        answer = self.json(engine("perplexity", stories, os.path.join(stories, "ppl.txt"), "--json"))
        self.assertEqual(answer["tokens"], expected["n_tokens"])
        self.assertLess(abs(answer["perplexity"] - expected["ppl"]), 0.001)

    def test_system_prompt_is_refused(self):
        self.fails(engine("generate", fixture("stories260K"), "-p", "x", "--system-prompt", "Be kind"), 1, "system")


if __name__ == "__main__":
    main()
