"""engine quantize: what it writes, what it refuses, what is left when it is stopped."""
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import unittest

import tiny_model
from harness import ENGINE, ENVIRONMENT, HERE, Case, engine, fixture, main, model, write_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
try:
    import numpy
    import read_compressed_tensors
except ImportError:
    numpy = None

_n = [0]


def fresh():
    """A name that is free."""
    _n[0] += 1
    return os.path.join(HERE, "quantized-%d" % _n[0])


_random = []


def random_model():
    """The tiny model with random numbers in its layers."""
    if not _random:
        directory = tiny_model.write(os.path.join(HERE, "random"))
        path, generator = os.path.join(directory, "model.safetensors"), random.Random(2)
        with open(path, "rb") as file:
            data = bytearray(file.read())
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:8 + size]).items():
            begin, end = (8 + size + n for n in entry["data_offsets"])
            if ".layers." in name and "norm" not in name:
                data[begin:end] = struct.pack("<%df" % ((end - begin) // 4), *(generator.gauss(0, 0.2) for _ in range((end - begin) // 4)))
        with open(path, "wb") as file:
            file.write(data)
        _random.append(directory)
    return _random[0]


def leftovers(out):
    return [name for name in os.listdir(HERE) if name.startswith(os.path.basename(out))]


def logits(test, directory, *options):
    ids = write_file("ids.safetensors", ids_file([[1, 5, 70, 100, 65, 66], [2, 3, 4, 90, 91, 92]]))
    out = fresh()
    test.succeeds(engine("logits", directory, "--input", ids, "--output", out, *options))
    with open(out, "rb") as file:
        return file.read()


def ids_file(rows):
    data = b"".join(i.to_bytes(8, "little") for row in rows for i in row)
    header = json.dumps({"input_ids": {"dtype": "I64", "shape": [len(rows), len(rows[0])], "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


class Written(Case):
    def test_same_logits_as_quantizing_while_loading(self):
        for dtype, group in (("int4", "32"), ("int8", "64"), ("int4", "128")):
            out = fresh()
            self.succeeds(engine("quantize", random_model(), out, "--dtype", dtype, "--group-size", group))
            self.assertEqual(logits(self, out), logits(self, random_model(), "--dtype", dtype, "--group-size", group))

    def test_output_matrix_in_int4(self):
        out, options = fresh(), ("--dtype", "int4", "--group-size", "64", "--output-dtype", "int4")
        self.assertIn("output matrix int4", self.succeeds(engine("quantize", random_model(), out, *options)).out)
        written = logits(self, out)
        self.assertEqual(written, logits(self, random_model(), *options))
        self.assertNotEqual(written, logits(self, random_model(), *options[:4]))
        sizes = [self.json(engine("inspect", random_model(), "--json", *o))["plan"]["weights_bytes"] for o in (options, options[:4])]
        self.assertLess(*sizes)

    def test_directory(self):
        out = fresh()
        self.assertIn("bits a weight", self.succeeds(engine("quantize", model(), out, "--dtype", "int4")).out)
        self.assertEqual(sorted(os.listdir(out)), sorted(os.listdir(model())))
        with open(os.path.join(out, "config.json")) as file:
            quantization = json.load(file)["quantization_config"]
        self.assertEqual((quantization["quant_method"], quantization["format"], quantization["quantization_status"]),
                         ("compressed-tensors", "pack-quantized", "compressed"))
        bits = {group["weights"]["num_bits"]: group["targets"] for group in quantization["config_groups"].values()}
        self.assertEqual(bits, {4: ["Linear"], 8: ["lm_head"]})
        self.assertEqual(engine("generate", out, "-p", "x", "-q", "do_sample=False").out, engine("generate", model(), "-p", "x", "-q", "do_sample=False").out)
        self.fails(engine("quantize", out, fresh(), "--dtype", "int4"), 1, "pack-quantized")

    def test_shards(self):
        out = fresh()
        self.succeeds(engine("quantize", random_model(), out, "--dtype", "int8", "--shard-size", "20K"))
        with open(os.path.join(out, "model.safetensors.index.json")) as file:
            index = json.load(file)
        files = sorted(set(index["weight_map"].values()))
        self.assertGreater(len(files), 2)
        self.assertEqual(files, sorted(name for name in os.listdir(out) if name.endswith(".safetensors")))
        self.assertIn("-of-%05d.safetensors" % len(files), files[0])
        self.assertEqual(logits(self, out), logits(self, random_model(), "--dtype", "int8"))

    def test_calibrated(self):
        text = write_file("text.txt", "the quick brown fox jumps over the lazy dog. " * 40)
        for arguments in ((), (text,)):
            out = fresh()
            answer = self.json(engine("quantize", random_model(), out, "--dtype", "int4", "--calibration-tokens", "256", "--json", "--calibrate", *arguments))
            self.assertEqual(len(answer["table"]), 7)
            self.assertLessEqual(answer["bits"], 5.1)
            self.assertLess(answer["mean_kl"], 1)

    @unittest.skipIf(numpy is None, "numpy is not here")
    def test_independent_reader(self):
        for dtype in ("int4", "int8"):
            out, plain = fresh(), fresh()
            self.succeeds(engine("quantize", random_model(), out, "--dtype", dtype))
            read_compressed_tensors.write_plain(out, plain)
            self.assertEqual(logits(self, out, "--dtype", "float32"), logits(self, plain, "--dtype", "float32"))


class Refused(Case):
    def test_usage(self):
        for arguments, word in ((("x", "y"), "--dtype"), (("x", "--dtype", "int4"), "OUT"), (("x", "y", "--dtype", "float16"), "--dtype"),
                                (("x", "y", "--dtype", "int4", "--bits", "4.6"), "--calibrate"),
                                (("x", "y", "--dtype", "int8", "--bits", "4.6", "--calibrate"), "--bits"),
                                (("x", "y", "--dtype", "int4", "--bits", "3", "--calibrate"), "--bits"),
                                (("x", "y", "--dtype", "int8", "--output-dtype", "int4"), "--output-dtype"),
                                (("x", "y", "--dtype", "int4", "--output-dtype", "int4", "--keep-output"), "--output-dtype"),
                                (("x", "y", "--dtype", "int4", "--output-dtype", "float32"), "--output-dtype"),
                                (("x", "y", "--dtype", "int4", "--group-size", "48"), "--group-size")):
            self.fails(engine("quantize", *arguments), 2, word)

    def test_out_exists(self):
        out = fresh()
        os.mkdir(out)
        self.fails(engine("quantize", model(), out, "--dtype", "int4"), 1, out, "directory")
        self.fails(engine("quantize", model(), out + "/", "--dtype", "int4"), 1, out)
        self.assertEqual(os.listdir(out), [])
        self.assertEqual(leftovers(out), [os.path.basename(out)])

    def test_quantized_already(self):
        self.fails(engine("quantize", fixture("models/gptoss-mxfp4"), fresh(), "--dtype", "int4"), 1, "got one in mxfp4")

    def test_calibration_text(self):
        self.fails(engine("quantize", model(), fresh(), "--dtype", "int4", "--calibrate", write_file("short", "x")), 1, "short")
        self.fails(engine("quantize", model(), fresh(), "--dtype", "int4", "--calibrate", "/nothing/there"), 1, "/nothing/there")

    def test_budget_too_small(self):
        out = fresh()
        self.fails(engine("quantize", model(), out, "--dtype", "int4", "--calibrate", "--calibration-tokens", "64", "--bits", "4.01"), 1, "--bits")
        self.assertEqual(leftovers(out), [])

    def test_disk_full(self):
        out = fresh()
        limit = "ulimit -f 20; trap '' XFSZ; exec \"$@\""  # files of 20 KB at most
        done = subprocess.run(["bash", "-c", limit, "bash", ENGINE, "quantize", model(), out, "--dtype", "int4"], capture_output=True, env=ENVIRONMENT,
                              timeout=60)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(out.encode(), done.stderr)
        self.assertEqual(leftovers(out), [])


class Stopped(Case):
    def stop(self, out, number):
        """Sends a signal once something has been written."""
        text = write_file("long.txt", "the quick brown fox jumps over the lazy dog. " * 2000)
        process = subprocess.Popen([ENGINE, "quantize", random_model(), out, "--dtype", "int4", "--calibrate", text, "--calibration-tokens", "80000"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=HERE,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # nohup's tests too
        while process.poll() is None and not leftovers(out):
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=120)
        return process.returncode

    def test_interrupted(self):
        out = fresh()
        self.assertEqual(self.stop(out, signal.SIGINT), 130)
        self.assertEqual(leftovers(out), [])

    def test_ended(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            out = fresh()
            self.assertEqual(self.stop(out, number), -number)
            self.assertEqual(leftovers(out), [])

    def test_killed(self):
        out = fresh()
        self.assertEqual(self.stop(out, signal.SIGKILL), -signal.SIGKILL)
        self.assertFalse(os.path.exists(out))
        self.assertEqual([name for name in leftovers(out) if ".tmp" not in name], [])


class RealModels(Case):
    """Quality on trained models, where the goldens are: at most half of the divergence that rounding to nearest costs."""

    def test_int4(self):
        for name, most in (("stories260K", 0.0485), ("babyllama-105", 0.0245)):
            out, source = fresh(), fixture(name)
            answer = self.json(engine("quantize", source, out, "--dtype", "int4", "--calibrate", "--bits", "4.6", "--json", timeout=300))
            self.assertLessEqual(answer["bits"], 4.6)
            against = self.json(engine("perplexity", out, os.path.join(source, "ppl.txt"), "--against", source, "--json"))
            self.assertLessEqual(against["mean_kl"], most)

    def test_int8(self):
        """The weights alone, and the whole as it runs."""
        for name in ("stories260K", "babyllama-105"):
            out, source = fresh(), fixture(name)
            self.succeeds(engine("quantize", source, out, "--dtype", "int8"))
            for options in (["--dtype", "float32"], []):
                against = self.json(engine("perplexity", out, os.path.join(source, "ppl.txt"), "--against", source, "--json", *options))
                self.assertLessEqual(against["mean_kl"], 0.0005)

    def test_keys_and_values(self):
        """In int8 beside float weights: the model compared with keeps its own type."""
        for name in ("stories260K", "babyllama-105"):
            source = fixture(name)
            against = self.json(engine("perplexity", source, os.path.join(source, "ppl.txt"), "--against", source, "--json", "--kv-dtype", "int8"))
            self.assertGreater(against["mean_kl"], 0)
            self.assertLessEqual(against["mean_kl"], 0.001)


if __name__ == "__main__":
    main()
