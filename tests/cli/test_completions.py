"""What `engine completions` and `engine man` print, in the shells and in man themselves."""
import os
import re
import shutil
import subprocess
import unittest

from harness import ENGINE, ENVIRONMENT, HERE, Case, engine, main, write_file

SPLIT = re.compile(r"(=|[^\s=]+)")  # words as bash makes them: '=' is one by itself


def script(shell):
    return write_file("completions." + shell, engine("completions", shell).out)


def commands():
    section = engine("--help").out.split("commands:\n")[1].split("\n\n")[0]
    return re.findall(r"^  (\w+) ", section, re.M)


@unittest.skipUnless(shutil.which("bash"), "bash is not installed")
class Bash(Case):
    def complete(self, line, **environment):
        """Completions of the last word; a blank at the end of `line` begins a new one."""
        words = SPLIT.findall(line) + ([""] if line.endswith(" ") else [])
        array = " ".join("'%s'" % word for word in words)
        code = 'source "$1"; COMP_WORDS=(%s); COMP_CWORD=%d; _engine; printf "%%s\\n" "${COMPREPLY[@]}"' % (array, len(words) - 1)
        done = subprocess.run(["bash", "--norc", "-c", code, "bash", script("bash")], capture_output=True, text=True, cwd=HERE,
                              env={**ENVIRONMENT, "HF_HUB_CACHE": os.path.join(HERE, "no"), **environment})
        self.assertEqual((done.returncode, done.stderr), (0, ""), line)
        return sorted(done.stdout.split("\n")[:-1]) if done.stdout.strip() else []

    def test_commands(self):
        self.assertEqual(self.complete("engine "), sorted(commands() + ["help", "--help", "--version"]))
        self.assertEqual(self.complete("engine ch"), ["chat", "check"])
        self.assertEqual(self.complete("engine help ge"), ["generate"])
        self.assertEqual(self.complete("engine template "), ["render"])
        self.assertEqual(self.complete("engine completions "), ["bash", "fish", "zsh"])

    def test_flags(self):
        for command in commands():
            found = self.complete("engine %s -" % command)
            told = engine(command, "--help").out.split("options:\n")[1]
            self.assertEqual(found, sorted(re.findall(r"(?:^  |, |^      )(--?[\w-]+)", told, re.M)), command)
        self.assertEqual(self.complete("engine chat --lo"), ["--load", "--load-in-4bit", "--load-in-8bit"])

    def test_values(self):
        dtypes = ["auto", "bfloat16", "float16", "float32", "int4", "int8"]
        self.assertEqual(self.complete("engine chat --dtype "), dtypes)
        self.assertEqual(self.complete("engine chat --dtype="), dtypes)
        self.assertEqual(self.complete("engine chat model --dtype=in"), ["int4", "int8"])
        self.assertEqual(self.complete("engine quantize m out --dtype "), ["int4", "int8"])
        self.assertEqual(self.complete("engine chat --threads "), [])
        self.assertIn("generic", self.complete("engine version --isa "))
        write_file("a template.jinja", "x")
        self.assertEqual(self.complete("engine chat --load a"), ["a template.jinja"])
        self.assertIn("chatml", self.complete("engine chat --chat-template "))

    def test_settings(self):
        keys = {"temperature=", "top_p=", "top_k=", "do_sample=", "max_new_tokens=", "stop_strings=", "seed="}
        for command in ("chat", "generate", "serve"):
            self.assertLessEqual(keys, set(self.complete("engine %s ./model " % command)), command)
            self.assertEqual(self.complete("engine %s ./model max_n" % command), ["max_new_tokens="])
            self.assertEqual(self.complete("engine %s ./model --threads 2 temperature=1 max_n" % command), ["max_new_tokens="])
        self.assertEqual(self.complete("engine chat ./model do_sample="), ["False", "True"])
        self.assertEqual(self.complete("engine chat ./model do_sample=T"), ["True"])
        self.assertEqual(self.complete("engine chat ./model temperature="), [])
        self.assertEqual(self.complete("engine inspect ./model max_n"), [])
        for key in self.complete("engine chat ./model "):  # all of them exist
            self.assertNotIn("unknown name", engine("generate", "none", "-p", "x", key + "1").err, key)

    def test_models(self):
        cache = os.path.join(HERE, "completion-cache")
        for folder in ("models--Qwen--Qwen3-0.6B", "models--org--a--b", "datasets--x--y"):
            os.makedirs(os.path.join(cache, folder), exist_ok=True)
        os.makedirs(os.path.join(HERE, "directory of models"), exist_ok=True)
        found = self.complete("engine chat ", HF_HUB_CACHE=cache)
        self.assertIn("Qwen/Qwen3-0.6B", found)
        self.assertIn("directory of models", found)
        self.assertFalse([name for name in found if "datasets" in name])
        self.assertEqual(self.complete("engine chat Q", HF_HUB_CACHE=cache), ["Qwen/Qwen3-0.6B"])
        self.assertEqual(self.complete("engine pull d", HF_HUB_CACHE=cache), [])
        self.assertEqual(self.complete("engine perplexity m x --against Qw", HF_HUB_CACHE=cache), ["Qwen/Qwen3-0.6B"])
        home = os.path.join(HERE, "completion-home")
        os.makedirs(os.path.join(home, "hub", "models--in--home"))
        self.assertEqual(self.complete("engine chat in", HF_HUB_CACHE="", HF_HOME=home), ["in/home"])


@unittest.skipUnless(shutil.which("fish"), "fish is not installed")
class Fish(Case):
    def complete(self, line):
        done = subprocess.run(["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script("fish"), line], capture_output=True, text=True,
                              cwd=HERE, env=ENVIRONMENT)
        self.assertEqual((done.returncode, done.stderr), (0, ""), line)
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    def test_all(self):
        self.assertEqual(sorted(self.complete("engine ch")), ["chat", "check"])
        self.assertLessEqual(set(commands()), set(self.complete("engine ")))
        self.assertEqual(sorted(self.complete("engine chat --dtype in")), ["int4", "int8"])
        self.assertEqual(self.complete("engine chat ./m max_n"), ["max_new_tokens="])
        self.assertIn("do_sample=True", self.complete("engine chat ./m do_sample=T"))
        self.assertEqual(self.complete("engine quantize --keep"), ["--keep-output"])


@unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
class Zsh(Case):
    # A terminal of zsh's own, in which Tab is pressed; compadd is replaced by one that tells what it was given.
    DRIVER = r"""
zmodload zsh/zpty
zpty z zsh -f -i
{
  zpty -w z "autoload -U compinit; compinit -u -D; source $1; PS1=; cd $3"
  zpty -w z 'bindkey "^I" complete-word; zstyle ":completion:*" list-grouped false; unsetopt ZLE_SPACE 2>/dev/null'
  zpty -w z 'compadd () { builtin compadd -A found "$@"; for f in $found; do print -r -- "<$f>"; done; builtin compadd "$@" }; print re""ady'
  while zpty -r z line; do [[ $line == *ready* ]] && break; done
  zpty -n -w z "$2"$'\t'
  sleep 1
  zpty -n -w z $'\C-u'"print en""d"$'\n'
  while zpty -r z line; do print -r -- $line; [[ $line == *end* ]] && break; done
} always { zpty -d z }
"""

    def complete(self, line):
        done = subprocess.run(["zsh", "-f", "-c", self.DRIVER, "zsh", script("zsh"), line, HERE], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        return sorted(set(re.findall(r"<([^<>]+)>", done.stdout)))

    def test_all(self):
        subprocess.run(["zsh", "-n", script("zsh")], check=True)
        found = self.complete("engine ch")
        if not found:
            self.skipTest("no terminal for zsh")
        self.assertEqual(found, ["chat", "check"])
        self.assertEqual(self.complete("engine chat --dtype in"), ["int4", "int8"])
        self.assertEqual(self.complete("engine chat ./m max_n"), ["max_new_tokens="])


class Unknown(Case):
    def test_refused(self):
        self.fails(engine("completions"), 2, "bash, zsh or fish")
        self.fails(engine("completions", "tcsh"), 2, "bash, zsh or fish", "'tcsh'")
        self.fails(engine("completions", "bash", "x"), 2, "'x'")


class Man(Case):
    def page(self, width=80):
        path = write_file("engine.1", engine("man").out)
        done = subprocess.run(["man", "--warnings", "-l", path], capture_output=True, text=True, env={**ENVIRONMENT, "MANWIDTH": str(width), "MANPAGER": "cat", "PAGER": "cat"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return re.sub(r".\x08", "", done.stdout)

    @unittest.skipUnless(shutil.which("man") and shutil.which("groff"), "man and groff are not installed")
    def test_page(self):
        page = self.page()
        for title in ("NAME", "SYNOPSIS", "COMMANDS", "GENERATION SETTINGS", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES"):
            self.assertRegex(page, r"(?m)^%s$" % title)
        for command in commands():
            self.assertIn("engine " + command, page)
            for flag in re.findall(r"(--[\w-]+)", engine(command, "--help").out):
                self.assertIn(flag, page)
        self.assertIn("stop_strings='[\"###\"]'", page)
        self.assertTrue(all(len(line) <= 80 for line in page.splitlines()))

    def test_every_help_fits(self):
        texts = [engine("--help").out] + [engine(command, "--help").out for command in commands()]
        self.assertGreater(len(texts), 14)
        for text in texts:
            for line in text.splitlines():
                self.assertLessEqual(len(line), 80, line)
                self.assertEqual(line, line.rstrip())


main()
