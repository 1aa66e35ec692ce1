"""Small machines: little memory, by resource limits and (as root, where that can be had) by control groups, and few processors. What cannot fit is refused
before it is loaded, with sizes; what fits runs, and stays within the limit."""
import json
import os
import re
import resource
import signal
import struct
import subprocess
import unittest
import urllib.request

from harness import ENGINE, ENVIRONMENT, HERE, Case, Result, engine, fixture, main, model
from sanitized import SANITIZED

MiB = 1 << 20
GROUPS = "/sys/fs/cgroup"


def run(*arguments, stdin="", prepare=None, timeout=120):
    """-> Result with `peak`, the most physical memory it had, in bytes."""
    with open(os.path.join(HERE, "out"), "w+b") as out, open(os.path.join(HERE, "err"), "w+b") as err:
        process = subprocess.Popen([ENGINE, *arguments], stdin=subprocess.PIPE, stdout=out, stderr=err, env=ENVIRONMENT, cwd=HERE, preexec_fn=prepare)
        timer = subprocess.Popen(["sh", "-c", "sleep %d; kill -9 %d" % (timeout, process.pid)], start_new_session=True)
        process.stdin.write(stdin.encode())
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.killpg(timer.pid, signal.SIGKILL)
        timer.wait()
        out.seek(0), err.seek(0)
        result = Result(process.returncode, out.read().decode(), err.read().decode())
    result.peak = usage.ru_maxrss * 1024
    return result


def resident(process):
    with open("/proc/%d/status" % process.pid) as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) * 1024


def limit(what, n_bytes):
    return lambda: resource.setrlimit(what, (n_bytes, n_bytes))


def large_model():
    """The tiny model with a feed-forward part of 192 MiB in bfloat16, all zeros: of a file with a hole, so that no disk is needed."""
    path = model("large", hidden_size=1024, intermediate_size=16384, num_hidden_layers=2, max_position_embeddings=1 << 22, vocab_size=259)
    file_path = os.path.join(path, "model.safetensors")
    d, d_ff, d_head, vocab = 1024, 16384, 16, 259
    shapes = {"model.embed_tokens.weight": [vocab, d], "model.norm.weight": [d], "lm_head.weight": [vocab, d]}
    for i in range(2):
        layer = "model.layers.%d." % i
        for name in ("q", "k", "v"):
            shapes[layer + "self_attn.%s_proj.weight" % name] = [d_head, d]
        shapes.update({layer + "self_attn.o_proj.weight": [d, d_head], layer + "input_layernorm.weight": [d], layer + "post_attention_layernorm.weight": [d],
                       layer + "mlp.gate_proj.weight": [d_ff, d], layer + "mlp.up_proj.weight": [d_ff, d], layer + "mlp.down_proj.weight": [d, d_ff]})
    header, offset = {}, 0
    for name, shape in shapes.items():
        n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + n]}
        offset += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file_path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


class Group:
    """A control group with a limit of memory, for as long as it is needed; SkipTest where there cannot be one."""

    def __init__(self, n_bytes):
        for parent, name in ((GROUPS + "/memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")):
            self.path = os.path.join(parent, "engine-test-%d" % os.getpid())
            try:
                os.mkdir(self.path)
                with open(os.path.join(self.path, name), "w") as file:
                    file.write(str(n_bytes))
                return
            except OSError:
                self.remove()
        raise unittest.SkipTest("no control group of our own to be had here")

    def enter(self):
        with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))

    def remove(self):
        try:
            os.rmdir(self.path)
        except OSError:
            pass


@unittest.skipIf(SANITIZED, "a sanitizer takes memory and addresses of its own")
class LittleMemory(Case):
    def test_refused_before_loading(self):
        few = limit(resource.RLIMIT_DATA, 256 * MiB)
        for command in (["generate", "-p", "x"], ["chat"], ["bench", "-p", "8", "-n", "8", "-r", "1"], ["serve", "--port", "0"]):
            result = run(command[0], large_model(), *command[1:], "--dtype", "float32", prepare=few)
            self.fails(result, 1, "engine: memory: expected at least", "(weights 38", "ulimit", *(["--mem"] if command[0] != "bench" else []))
            self.assertLess(result.peak, 100 * MiB)
        report = self.json(run("inspect", large_model(), "--json", "--dtype", "float32", prepare=few))
        self.assertEqual((report["plan"]["fits"], report["plan"]["available_by"]), (False, "ulimit"))
        self.assertLess(report["plan"]["available_bytes"], 256 * MiB)

    def test_what_was_found_can_be_overruled(self):
        # And then it is the system that says no, in one line.
        result = run("generate", large_model(), "-p", "x", "--dtype", "float32", "--mem", "4G", prepare=limit(resource.RLIMIT_DATA, 256 * MiB))
        self.fails(result, 1, "memory: cannot get")

    def test_smaller_weights_fit(self):
        plan = self.json(engine("inspect", large_model(), "--json", "--dtype", "int4"))["plan"]
        self.assertLess(plan["owned_bytes"], 60 * MiB)
        result = self.succeeds(run("generate", large_model(), "-p", "x", "max_new_tokens=2", "--dtype", "int4", prepare=limit(resource.RLIMIT_DATA, 256 * MiB)))
        self.assertLess(result.peak, plan["owned_bytes"] + plan["scratch_bytes"] + 300 * MiB)

    def test_mapped_weights_are_slow_not_refused(self):
        result = self.succeeds(run("generate", large_model(), "-p", "x", "max_new_tokens=2", prepare=limit(resource.RLIMIT_DATA, 128 * MiB)))
        self.assertRegex(result.err, r"memory: 19\d MiB of weights do not fit into .* ulimit leaves.*: they will be read from the file again and again\n")

    def test_the_context_is_what_fits(self):
        few = limit(resource.RLIMIT_DATA, 256 * MiB)
        command = ["generate", large_model(), "-p", "x", "max_new_tokens=2", "--dtype", "int4"]
        result = self.succeeds(run(*command, prepare=few))
        found = re.search(r"context: (\d+) of 4194304 positions fit into what ulimit leaves\n", result.err)
        self.assertTrue(found, result)
        self.assertTrue(100_000 < int(found[1]) < 2_000_000, found[0])
        self.assertEqual(self.succeeds(run(*command, "-q", prepare=few)).err, "")
        self.fails(run(*command, "--ctx", "4194304", prepare=few), 1, "memory: expected at least", "KV cache 512 MiB for 4194304 positions", "--ctx ")
        for fitting in (run(*command, "--ctx", "4096", prepare=few), run(*command)):
            self.assertNotIn("context:", self.succeeds(fitting).err)

    def test_address_space(self):
        # The whole program, the stacks of its threads too. What cannot be mapped is said to be so.
        few = limit(resource.RLIMIT_AS, 160 * MiB)
        stories = fixture("stories260K")
        self.succeeds(run("generate", stories, "--raw", "-p", "Once", "max_new_tokens=8", prepare=few))
        self.assertEqual(self.succeeds(run("chat", model(), "-q", stdin="x\n", prepare=few)).out, "ABCDEFGHIJKLMNOPQRSTUVWXYZ\n")
        self.succeeds(run("bench", model(), "-p", "8", "-n", "8", "-r", "1", prepare=few))
        self.succeeds(run("inspect", model(), prepare=few))
        self.fails(run("generate", large_model(), "-p", "x", prepare=few), 1, "model.safetensors: cannot map 2", "Cannot allocate memory")

    def serve(self, *arguments, prepare=None):
        """-> the process, and its address."""
        process = subprocess.Popen([ENGINE, "serve", *arguments, "--port", "0", "--log", "json"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=prepare)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        lines = iter(process.stderr.readline, "")
        return process, next(json.loads(line)["at"] for line in lines if '"listening"' in line)

    def chat(self, at, **settings):
        body = {"messages": [{"role": "user", "content": "x"}], **settings}
        request = urllib.request.Request(at + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]

    def test_serve(self):
        _, at = self.serve(model(), prepare=limit(resource.RLIMIT_DATA, 96 * MiB))
        self.assertEqual(self.chat(at), "ABCDEFGHIJKLMNOPQRSTUVWXYZ")

    def test_idle_server(self):
        # As inspect said, within a tenth: at the model's own long context, with weights of its own and with those of the file.
        for dtype in ("bfloat16", "int8", "int4"):
            with self.subTest(dtype):
                plan = self.json(engine("inspect", large_model(), "--json", "--dtype", dtype))["plan"]
                said = plan["idle_server_bytes"]
                process, at = self.serve(large_model(), "--dtype", dtype)
                self.assertAlmostEqual(resident(process), said["started"], delta=max(said["started"] / 10, MiB))  # a started program of 4 MiB has pages to come
                for _ in range(2):
                    self.chat(at, max_tokens=4)
                after = resident(process)
                self.assertGreater(after, 0.9 * said["weights_read"])
                self.assertLess(after, 1.1 * (said["weights_read"] + plan["scratch_bytes"]))

    def test_control_group(self):
        group = Group(256 * MiB)
        self.addCleanup(group.remove)
        plan = self.json(run("inspect", large_model(), "--json", "--dtype", "float32", prepare=group.enter))["plan"]
        self.assertEqual((plan["fits"], plan["available_by"]), (False, "the control group"))
        self.assertLess(plan["available_bytes"], 257 * MiB)
        self.fails(run("generate", large_model(), "-p", "x", "--dtype", "float32", prepare=group.enter), 1, "memory: expected at least", "control group")
        for _ in range(2):  # the file's pages, which count as the group's, take nothing away from the second
            self.succeeds(run("generate", large_model(), "-p", "x", "max_new_tokens=2", "--dtype", "int8", prepare=group.enter))


class FewProcessors(Case):
    def test_affinity(self):
        one = min(os.sched_getaffinity(0))
        version = self.json(run("version", "--json", prepare=lambda: os.sched_setaffinity(0, {one})))
        self.assertEqual(version["threads"], 1)
        result = self.succeeds(run("generate", model(), "-q", "-p", "x", "--threads", "4", prepare=lambda: os.sched_setaffinity(0, {one})))
        self.assertEqual(result.out, "ABCDEFGHIJKLMNOPQRSTUVWXYZ\n")


if __name__ == "__main__":
    main()
