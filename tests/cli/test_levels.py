"""The built program on the processor it runs on, real or emulated (ENGINE_EMULATOR, QEMU_CPU): which instruction-set levels it says it has, and that
each of them answers."""
import json
import os

from harness import Case, engine, fixture, main, model

# What QEMU's model of a processor can run of what is compiled in.
USABLE = {
    "Nehalem": ["generic"],
    "Haswell": ["generic", "avx2"],
    "cortex-a53": ["generic", "neon"],
    "neoverse-n1": ["generic", "neon", "dotprod"],
}
WEIGHTS = ["float32", "bfloat16", "int8", "int4"]


class Levels(Case):
    def setUp(self):
        self.isa = self.json(engine("version", "--json"))["isa"]

    def test_what_is_usable(self):
        self.assertEqual(self.isa["chosen"], self.isa["usable"][-1])
        self.assertEqual(self.isa["compiled"][0], "generic")
        cpu = os.environ.get("QEMU_CPU")
        if cpu in USABLE:
            self.assertEqual(self.isa["usable"], USABLE[cpu])

    def test_forced(self):
        for name in self.isa["compiled"]:
            result = engine("version", "--json", environment={"ENGINE_ISA": name})
            if name in self.isa["usable"]:
                self.assertEqual(self.json(result)["isa"]["chosen"], name)
            else:
                self.fails(result, 1, "ENGINE_ISA", name, "cannot run")

    def test_every_level_with_every_kind_of_weights(self):
        for level in self.isa["usable"]:
            for dtype in WEIGHTS:
                answer = self.json(engine("generate", model(), "-p", "A", "--json", "-q", "--isa", level, "--dtype", dtype, "do_sample=False",
                                          "max_new_tokens=4", timeout=300))
                self.assertGreater(answer["completion_tokens"], 0)

    def test_greedy(self):
        stories = fixture("stories260K")
        with open(os.path.join(stories, "greedy.jsonl")) as file:
            case = json.loads(file.readline())
        for level in self.isa["usable"]:
            answer = self.json(engine("generate", stories, "--raw", "-p", case["prompt"], "--json", "-q", "--isa", level, "do_sample=False",
                                      "max_new_tokens=200", timeout=300))
            self.assertEqual([i for i in answer["token_ids"] if i not in (1, 2)], case["greedy_ids"])
            self.assertEqual(answer["text"], case["greedy_text"])
            quantized = self.json(engine("generate", stories, "--raw", "-p", case["prompt"], "--json", "-q", "--isa", level, "--dtype", "int8",
                                         "do_sample=False", "max_new_tokens=40", timeout=300))
            self.assertTrue(quantized["text"].startswith("Once upon a time, there was a little girl named Lily."), quantized["text"])


if __name__ == "__main__":
    main()
